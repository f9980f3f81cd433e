"""Saved evaluations beside one another: the effect of each on one group, and the paired difference of two.

Two effects whose intervals overlap may still differ, and two findings need not: where both were measured on the same
prompts the difference is taken prompt by prompt, with its own interval over units of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.response_classes import Rules
from .effects import ALL, LOG, PERPLEXITY, PROFILE, Evaluation
from .measures import Measure, measures
from .table import with_controls
from .units import mean_interval

_NUMBERS = (
    "change",
    "low",
    "high",
    "random_low",
    "random_high",
    "difference",
    "difference_low",
    "difference_high",
)
SCHEMA = pa.schema(
    [("evaluation", pa.string()), ("group", pa.string())]
    + [(name, pa.float64()) for name in _NUMBERS]
    + [("finding", pa.bool_()), ("why", pa.string()), ("units", pa.int64()), ("not_paired", pa.string())]
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One evaluation with the choices that its effects depend on."""

    name: str
    evaluation: Evaluation
    by: str | None = None
    target: str | None = None
    classes: Rules | None = None


def compare_evaluations(found: Sequence[Compared], measure: str, group: str = ALL) -> pa.Table:
    """One row an evaluation: its effect, its controls, and how it differs from the first one's.

    Args:
        measure: as in `Evaluation.effects`.
        group: a value of `by`, or "all".
    Returns:
        evaluation, group, change, low, high (95 %), random_low and random_high (ends of any draw's interval),
        difference (its change minus the first one's; of "perplexity" the ratio of both factors minus 1) with its
        interval, finding, why, units, not_paired (why there is no difference). Evaluations without that measure or
        group are left out.
    """
    rows = []
    for one in found:
        effects = one.evaluation.effects(one.by, target=one.target, classes=one.classes)
        row = next(
            (row for row in with_controls(effects, [measure]).to_pylist() if row["group"] == group), None
        )
        if row is None:
            continue
        rows.append({name: row.get(name) for name in SCHEMA.names} | {"evaluation": one.name})
        if one is not found[0]:
            rows[-1] |= _difference(found[0], one, measure, group)
    return pa.Table.from_pylist(rows, SCHEMA)


def _difference(first: Compared, other: Compared, measure: str, group: str) -> dict[str, Any]:
    """The paired difference, or why there is none."""
    a, b = first.evaluation, other.evaluation
    if a.prompt_ids != b.prompt_ids or a.units != b.units:
        return {"not_paired": "other prompts"}
    if group != ALL and a.groups.get(first.by or "") != b.groups.get(other.by or ""):
        return {"not_paired": "split by another column"}
    of_a, of_b = (_measure(one, LOG if measure == PERPLEXITY else measure) for one in (first, other))
    if of_a is None or of_b is None or not np.array_equal(of_a.weights_P, of_b.weights_P):
        return {"not_paired": "another tokenizer or other answers"}
    column = a.groups[first.by] if group != ALL and first.by else [group] * len(a.prompt_ids)
    chosen_P = np.array([value == group for value in column])
    change_P = (of_b.steered_P - of_b.base_P) - (of_a.steered_P - of_a.base_P)
    interval = mean_interval(change_P, of_a.weights_P * chosen_P, np.array(a.units), a.resamples)
    ends = {"difference": interval.point, "difference_low": interval.low, "difference_high": interval.high}
    if measure == PERPLEXITY:
        return {name: math.expm1(float(value)) for name, value in ends.items()}
    return {name: float(value) for name, value in ends.items()}


def _measure(one: Compared, name: str) -> Measure | None:
    outcomes: Mapping[str, Any] = one.evaluation.variants
    if PROFILE not in outcomes:
        return None
    found = measures(one.evaluation.base, outcomes[PROFILE], one.classes)
    return next((each for each in found if each.name == name), None)
