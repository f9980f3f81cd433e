"""A dose curve: effect and side effect of the same steering weaker and stronger, beside random draws.

Each dose is a variant of an evaluation that is named by it (`evaluate_dose` makes them).
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from ...store.response_classes import Rules
from .effects import ALL, LOG, Evaluation

_NAME = re.compile(r"(?P<dose>-?[0-9.e+-]+)(?: random (?P<draw>[0-9]+))?")


def name_of(dose: float, draw: int | None = None) -> str:
    """The variant that is this dose, or one of its random draws."""
    return f"{dose:g}" if draw is None else f"{dose:g} random {draw}"


def dose_of(name: str) -> tuple[float, int | None] | None:
    """Dose and number of the draw (None: the steering itself) of a variant's name; None where it names no dose."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        return float(found["dose"]), int(found["draw"]) if found["draw"] else None
    except ValueError:
        return None


def dose_table(
    evaluation: Evaluation,
    by: str | None = None,
    *,
    target: str | None = None,
    effect: str = LOG,
    side: str | None = None,
    classes: Rules | None = None,
) -> pa.Table:
    """Effect and side effect at every dose.

    Args:
        by, target: the effect is that on the prompts with this value, the side effect that on all others
            together. Without a target both are of all prompts.
        effect: a measure of `Evaluation.effects`.
        side: another for the side effect; the same where there is a target, else "kl".
        classes: response classes, where a measure is a behaviour.
    Returns:
        dose, draw (null: the steering itself), role ("effect" or "side effect"), measure, group, change, low,
        high (95 %), units; by dose.
    """
    all_P = np.ones(len(evaluation.prompt_ids), bool)
    mine_P = all_P if target is None else evaluation.mask(by, target)
    roles = [
        ("effect", effect, target or ALL, mine_P),
        ("side effect", side or ("kl" if target is None else effect), "others" if target else ALL,
         all_P if target is None else ~mine_P),
    ]  # fmt: skip
    rows = []
    for variant in evaluation.variants:
        known = dose_of(variant) if evaluation.kinds[variant] == "dose" else None
        if known is None:
            continue
        for role, measure, group, chosen_P in roles:
            interval = evaluation.interval(variant, measure, chosen_P, classes)
            numbers = {"change": interval.point, "low": interval.low, "high": interval.high}
            rows.append(
                {"dose": known[0], "draw": known[1], "role": role, "measure": measure, "group": group}
                | {name: float(value) for name, value in numbers.items()} | {"units": int(interval.units)}
            )  # fmt: skip
    rows.sort(key=lambda row: (row["dose"], row["draw"] or 0, row["role"]))
    return pa.Table.from_pylist(rows, DOSES)


DOSES = pa.schema(
    [
        ("dose", pa.float64()),
        ("draw", pa.int64()),
        ("role", pa.string()),
        ("measure", pa.string()),
        ("group", pa.string()),
        ("change", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("units", pa.int64()),
    ]
)
