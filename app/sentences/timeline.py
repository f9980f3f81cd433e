"""What a timeline and a reuse matrix say in words."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..text import words

NAMES = {"use": "part of all choices", "share": "share of tokens", "weight": "mean gate weight"}


def timeline(table: pa.Table, by: str, measure: str) -> str:
    """The expert that changes most along the axis, from where to where, and the chance level.

    Args:
        table: the view `timeline`, one layer of it.
    """
    rows = [row for row in table.to_pylist() if row["expert"] is not None and row[measure] is not None]
    if not rows:
        return "No expert has a value."
    of: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["expert"], []).append(row)
    places = len({row["x"] for row in rows})
    expert, mine = max(of.items(), key=lambda item: _spread(item[1], measure))
    ends = (end(mine, key=lambda row: row[measure]) for end in (min, max))
    first, last = sorted(ends, key=lambda row: row["at"])
    if places == 1:
        return f"There is one place along {by}, {rows[0]['x']}."
    text = (
        f"Along {by} ({words.amount(places, 'place')}) expert {expert} changes most: its {NAMES[measure]} is "
        f"{_shown(first[measure], measure)} at {first['x']} and {_shown(last[measure], measure)} at {last['x']}."
    )
    if measure == "share" and mine[0]["chance"] is not None:
        text += f" Even routing would give every expert {words.percent(mine[0]['chance'])}."
    return f"{text} The axis shows where routing changes, not why."


def _spread(rows: list[dict[str, Any]], measure: str) -> float:
    values = [float(row[measure]) for row in rows]
    return max(values) - min(values)


def _shown(value: Any, measure: str) -> str:
    number = float(value)
    return f"{number:.2f}" if measure == "weight" else words.percent(number)


def gate_weights(table: pa.Table, by: str, expert: int) -> str:
    """Where an expert's gate weights are largest and smallest on average.

    Args:
        table: the view `gate-weights` by a tag.
        by: the column that holds its values.
    """
    means = {row[by]: row["mean"] for row in table.to_pylist() if row["mean"] is not None}
    if not means:
        return f"No token chooses expert {expert}."
    least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    if least == most:
        return f"Where it is chosen, expert {expert} has a mean weight of {means[most]:.2f}."
    return (
        f"Where it is chosen, expert {expert} has a mean weight of {means[most]:.2f} for {most}, and of "
        f"{means[least]:.2f} for {least}."
    )


def reuse(table: pa.Table) -> str:
    """How much of the choices goes to other layers' experts, beside even routing.

    Args:
        table: the view `reuse`.
    """
    rows = table.to_pylist()
    total = sum(row["count"] for row in rows)
    other = [row for row in rows if row["owner"] != row["layer"]]
    layers = {row["layer"]: row["count"] for row in rows}
    for row in rows:
        layers[row["layer"]] = sum(r["count"] for r in rows if r["layer"] == row["layer"])
    even = sum(row["even"] * layers[row["layer"]] for row in other) / max(total, 1)
    share = sum(row["count"] for row in other) / max(total, 1)
    strongest = max(rows, key=lambda row: row["use"] - row["even"])
    return (
        f"{words.percent(share)} of all choices go to experts of another layer; even routing would give "
        f"{words.percent(even)}. Furthest above even: layer {strongest['layer']} takes "
        f"{words.percent(strongest['use'])} of its choices from layer {strongest['owner']} "
        f"(even: {words.percent(strongest['even'])})."
    )
