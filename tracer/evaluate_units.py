"""Intervals of effects: the unit that is resampled is the text with all its translations.

Prompts that share a parallel_id say the same thing, so they are not independent: a resample draws the whole
unit or none of it. A prompt without a parallel_id is a unit by itself. Every variant of an evaluation is resampled
alike, so that a profile and its controls see the same draws.

Shapes: P prompts, U units, G groups, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels.bootstrap import Interval, bootstrap_interval, resample
from ..kernels.percentiles import percentile_bounds


def units_of(parallel_ids: Sequence[str | None]) -> list[int]:
    """The number of each prompt's unit, counted from 0 in the order of their first prompts."""
    number: dict[tuple[str, object], int] = {}
    names = (("prompt", place) if not name else ("unit", name) for place, name in enumerate(parallel_ids))
    return [number.setdefault(name, len(number)) for name in names]


def mean_interval(
    change_P: np.ndarray, weights_P: np.ndarray, unit_P: np.ndarray, resamples: int
) -> Interval:
    """The weighted mean over prompts, its interval over units; `units` counts those with any weight.

    Args:
        change_P: may be NaN where the weight is 0.
        unit_P: number of each prompt's unit.
    """
    used_P = weights_P > 0
    sums_PU = [
        np.bincount(unit_P, np.where(used_P, values, 0), minlength=unit_P.max() + 1)
        for values in (weights_P, weights_P * np.where(used_P, change_P, 0))
    ]
    weights_U, totals_U = sums_PU
    means_U = totals_U / np.where(weights_U > 0, weights_U, 1)
    return bootstrap_interval(means_U, weights=weights_U, resamples=resamples)


def contrast_interval(
    change_P: np.ndarray, weights_GP: np.ndarray, unit_P: np.ndarray, resamples: int
) -> Interval:
    """The first group's mean minus the mean of the other groups' means, whole units resampled.

    A group that a resample missed is left out of it. `units` is the smaller of the two sides' numbers: an interval
    is as uncertain as its smaller side.
    """
    change_P = np.where(weights_GP.any(0), change_P, 0)
    counts_BU = np.concatenate(list(resample(unit_P.max() + 1, resamples, seed=0)))
    point, *_ = _contrasts(np.ones((1, len(change_P))), weights_GP, change_P)
    drawn_B1 = _contrasts(counts_BU[:, unit_P], weights_GP, change_P)[:, None]
    sides = (weights_GP[0] > 0, weights_GP[1:].any(0))
    units = min(len(np.unique(unit_P[side])) for side in sides)
    low, high = percentile_bounds(drawn_B1, 0.95, units).ravel()
    return Interval(point, low, high, np.asarray(units))


def _contrasts(counts_BP: np.ndarray, weights_GP: np.ndarray, change_P: np.ndarray) -> np.ndarray:
    """(B,) first group's weighted mean minus the mean of the others', in each resample."""
    sizes_BG = counts_BP @ weights_GP.T
    with np.errstate(invalid="ignore"):
        means_BG = (counts_BP @ (weights_GP * change_P).T) / sizes_BG
    drawn_BG = sizes_BG[:, 1:] > 0
    rest_B = np.where(drawn_BG, means_BG[:, 1:], 0).sum(1) / np.maximum(drawn_BG.sum(1), 1)
    return np.where(drawn_BG.any(1), means_BG[:, 0] - rest_B, np.nan)
