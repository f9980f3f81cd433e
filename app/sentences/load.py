"""What stands under a chart: what it shows in words, with its numbers and what chance would give."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..figures.load import MEASURES
from ..text import words


def load(table: pa.Table, measure: str, who: str) -> str:
    """Of a map of one selection: its largest cell against even routing, and the experts that nobody uses.

    Args:
        table: from `load_difference.with_measure`.
        who: whose tokens, as in `Japanese` or `all`.
    """
    value = table["value"].to_numpy()
    if not np.isfinite(value).any():
        return f"This trace does not record the {MEASURES[measure].label}."
    if not table["tokens"].to_numpy().any():
        return f"No tokens: nothing passed a router for {who}."
    top = table.slice(int(np.nanargmax(value)), 1).to_pylist()[0]
    place = f"layer {top['layer']}, expert {top['expert']}"
    if measure == "share":
        first = (
            f"Layer {top['layer']} sends {words.percent(top['value'])} of {who} tokens to expert "
            f"{top['expert']}, its largest share in the picture; even routing would give "
            f"{words.percent(top['chance'])}."
        )
    else:
        first = f"The largest {MEASURES[measure].label} over {who} tokens is {top['value']:.3f}, at {place}."
    return f"{first} {_unused(table)}"


def _unused(table: pa.Table) -> str:
    unused = int((table["count"].to_numpy() == 0).sum())
    if not unused:
        return "Every expert is used."
    return f"{words.amount(unused, 'expert')} of {words.count(table.num_rows)} {_is(unused)} never used."


def load_difference(table: pa.Table, measure: str, a: str, b: str) -> str:
    """Of a map of a difference: its largest cells in both directions."""
    value = table["value"].to_numpy()
    if not np.isfinite(value).any():
        return f"No cell has a {MEASURES[measure].label} on both sides."
    up, down = (table.slice(int(at(value)), 1).to_pylist()[0] for at in (np.nanargmax, np.nanargmin))
    change = words.points if measure == "share" else _signed
    level = words.percent if measure == "share" else "{:.3f}".format
    return (
        f"{_capital(MEASURES[measure].label)}, {a} minus {b}. "
        f"Most in favour of {a}: layer {up['layer']}, expert {up['expert']} "
        f"({level(up['a'])} against {level(up['b'])}, {change(up['value'])}). "
        f"Most in favour of {b}: layer {down['layer']}, expert {down['expert']} "
        f"({level(down['a'])} against {level(down['b'])}, {change(down['value'])})."
    )


def widest_spread(table: pa.Table, measure: str, column: str) -> str:
    """Of maps side by side: the expert on which the values of the column differ most.

    Args:
        table: from `load_difference.with_measure`, with `column`.
    """
    cells: dict[tuple, list[dict]] = {}
    for row in table.select(["stream", "layer", "expert", column, "value", "tokens"]).to_pylist():
        if row["tokens"] and row["value"] is not None:
            cells.setdefault((row["stream"], row["layer"], row["expert"]), []).append(row)
    if not cells:
        return f"This trace does not record the {MEASURES[measure].label}."
    level = words.percent if measure == "share" else "{:.3f}".format

    def ends(rows: list[dict]) -> tuple[dict, dict]:
        ordered = sorted(rows, key=lambda row: row["value"])
        return ordered[0], ordered[-1]

    (_, layer, expert), rows = max(
        cells.items(), key=lambda c: ends(c[1])[1]["value"] - ends(c[1])[0]["value"]
    )
    least, most = ends(rows)
    return (
        f"They differ most at layer {layer}, expert {expert}: {MEASURES[measure].label} "
        f"{level(most['value'])} for {words.value_name(column, most[column])} and "
        f"{level(least['value'])} for {words.value_name(column, least[column])}."
    )


def by_value(table: pa.Table, column: str, layer: int, expert: int) -> str:
    """Of one expert's share by language, group or tag.

    Args:
        table: rows with `column`, share, chance and tokens.
    """
    rows = [row for row in table.to_pylist() if row["tokens"]]
    if not rows:
        return "No tokens for this selection."
    most = max(rows, key=lambda row: row["share"])
    least = min(rows, key=lambda row: row["share"])
    name = f"Layer {layer}, expert {expert}"
    chance = f"Even routing would give {words.percent(most['chance'])}."
    if most is least:
        return f"{name} takes {words.percent(most['share'])} of the tokens. {chance}"
    return (
        f"{name} takes {words.percent(most['share'])} of {words.value_name(column, most[column])} tokens "
        f"and {words.percent(least['share'])} of {words.value_name(column, least[column])} tokens. {chance}"
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
