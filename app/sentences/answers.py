"""What a steering did to an answer, in words with its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...store.schema import Cell
from ..steering.answers import SIDES, Answers, Side
from ..text import words


def outcome(answers: Answers, *, neutral: bool) -> str:
    """How the two answers compare; `neutral` says that no rule of the steering has any effect."""
    if not any(answers.events[side] for side in SIDES):
        return ""
    if answers.untouched:
        why = "Neutral steering: no rule changes anything, so b" if neutral else "B"
        head = f"{why}oth answers are identical: the same tokens, the same experts, "
        if answers.largest_kl == 0:
            return f"{head}KL 0 at every position."
        return (
            f"{head}KL at most {answers.largest_kl:.2g} nats, which rounding alone can make here (floor "
            f"{answers.floor:.2g})."
        )
    tokens = len(answers.events["steered"])
    rows = [event for side in SIDES for event in answers.events[side]]
    decisions = sum(len(event["experts"]) for event in rows)
    changed = sum(len(event["changed"]) for event in rows)
    if answers.parting is None:
        head = (
            f"Both answers have the same {words.amount(tokens, 'token')}, though the model beneath differs."
        )
    else:
        head = f"The answers part at token {answers.parting}."
    moved = (
        f"{words.percent(changed / decisions)} of routing decisions along the answer have other experts"
        if decisions
        else ""
    )
    kl = answers.mean_kl("steered")
    drift = "" if kl is None else f"mean KL(base ‖ steered) along the steered answer is {kl:.3g} nats"
    body = "; ".join(filter(None, [moved, drift]))
    return f"{head} {body[:1].upper()}{body[1:]}."


def strip(answers: Answers, side: Side) -> str:
    """Where along the prompt and one answer the models differ most."""
    rows = answers.along(side)
    known = [(row["kl"], row) for row in rows if row["kl"] is not None]
    if not known:
        return "No finite KL along this answer."
    most, at = max(known, key=lambda pair: pair[0])
    said = [f"Largest KL: {most:.3g} nats at {place(at)}." if most > 0 else "KL is 0 at every token."]
    prompt = [kl for kl, row in known if row["phase"] == "prompt"]
    if prompt and most > 0:
        said.append(f"Along the prompt it is {sum(prompt) / len(prompt):.3g} nats on average.")
    layers = Counter(name for row in rows for name in row["changed"])
    if layers:
        name, count = layers.most_common(1)[0]
        said.append(
            f"Layer {name} changes most often: at {words.percent(count / len(rows))} of the tokens drawn."
        )
    else:
        said.append("No expert set changed.")
    if note := answers.prompt_note:
        said.append(f"{note[:1].upper()}{note[1:]}.")
    return " ".join(said)


def place(row: Mapping[str, Any]) -> str:
    """`token 3 of the prompt`; of an answer, `token 3`."""
    return f"token {row['position']}{' of the prompt' if row['phase'] == 'prompt' else ''}"


def board(states: Mapping[Cell, str], load: pa.Table) -> str:
    """How much of the recorded routing goes to the experts that are steered.

    Args:
        load: the view `load`: stream, layer, expert, count.
    """
    columns = (load[name].to_pylist() for name in ("stream", "layer", "expert"))
    cells = list(map(Cell, *columns))
    steered = [cell for cell in cells if cell in states]
    if not steered:
        return f"No single expert of {words.count(len(cells))} is steered."
    kinds = Counter(states[cell] for cell in steered)
    listed = words.listing((f"{count} {kind}" for kind, count in kinds.most_common()), most=6)
    counts = dict(zip(cells, load["count"].to_pylist(), strict=True))
    layers = {cell.router for cell in steered}
    there = sum(count for cell, count in counts.items() if cell.router in layers)
    share = sum(counts[cell] for cell in steered) / there if there else 0.0
    even = len(steered) / sum(cell.router in layers for cell in cells)
    one = len(steered) == 1
    of = f"{words.count(len(steered))} of {words.count(len(cells))} experts"
    head = f"{of} {'is' if one else 'are'} steered: {listed}."
    where = "In its layer it takes" if one else f"In their {words.amount(len(layers), 'layer')} they take"
    rest = f"{words.percent(share)} of the recorded routing; even routing would give {words.percent(even)}."
    return f"{head} {where} {rest}"
