"""Intervals of effects: the unit that is resampled is the text with all its translations.

Prompts that share a parallel_id say the same thing, so they are not independent: a resample draws the whole
unit or none of it. A prompt without a parallel_id is a unit by itself. Every variant of an evaluation is resampled
alike, so that a profile and its controls see the same draws.

Shapes: P prompts, U units, G groups, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ...kernels.statistics.bootstrap import FEWEST_UNITS, Interval, interval_of_enough, resample
from ...kernels.statistics.percentiles import percentile_bounds

Column = tuple[np.ndarray, np.ndarray]
"""Change and weight of each prompt."""


def units_of(parallel_ids: Sequence[str | None]) -> list[int]:
    """The number of each prompt's unit, counted from 0 in the order of their first prompts."""
    number: dict[tuple[str, object], int] = {}
    names = (("prompt", place) if not name else ("unit", name) for place, name in enumerate(parallel_ids))
    return [number.setdefault(name, len(number)) for name in names]


def few_units_note(units: int) -> list[str]:
    """What to say of an evaluation on too few independent texts for any interval."""
    if units >= FEWEST_UNITS:
        return []
    return [
        f"{units} independent {'text' if units == 1 else 'texts'}: below {FEWEST_UNITS} only points are shown, without "
        "intervals or findings (an interval from 3 would hold the true value in 69 to 75 % of cases instead of 95 %)"
    ]


def mean_interval(
    change_P: np.ndarray, weights_P: np.ndarray, unit_P: np.ndarray, resamples: int
) -> Interval:
    """The weighted mean over prompts, its interval over units; `units` counts those with any weight. Below
    `FEWEST_UNITS` the ends are NaN: an interval of so few would claim more than it knows.

    Args:
        change_P: may be NaN where the weight is 0.
        unit_P: number of each prompt's unit.
    """
    (found,) = mean_intervals([(change_P, weights_P)], unit_P, resamples)
    return found


def mean_intervals(columns: Sequence[Column], unit_P: np.ndarray, resamples: int) -> list[Interval]:
    """`mean_interval` of many (change_P, weights_P) at once: the units are drawn once for all of them."""
    if not columns:
        return []
    pairs = [
        (by_unit(np.where(weights_P > 0, change_P, 0) * weights_P, unit_P), by_unit(weights_P, unit_P))
        for change_P, weights_P in columns
    ]
    totals_UM, weights_UM = (np.stack(side, axis=1) for side in zip(*pairs, strict=True))
    means_UM = totals_UM / np.where(weights_UM > 0, weights_UM, 1)
    found = interval_of_enough(means_UM, weights=weights_UM, resamples=resamples)
    ends = zip(found.point, found.low, found.high, found.units, strict=True)
    return [Interval(*one) for one in ends]


def by_unit(values_P: np.ndarray, unit_P: np.ndarray) -> np.ndarray:
    """Sums by unit, (U,)."""
    return np.bincount(unit_P, values_P, minlength=unit_P.max() + 1)


def contrast_interval(
    change_P: np.ndarray, weights_GP: np.ndarray, unit_P: np.ndarray, resamples: int
) -> Interval:
    """The first group's mean minus the mean of the other groups' means, whole units resampled.

    A group that a resample missed is left out of it. `units` is the smaller of the two sides' numbers: an interval
    is as uncertain as its smaller side.
    """
    change_P = np.where(weights_GP.any(0), change_P, 0)
    weights_GU = np.stack([by_unit(weights_P, unit_P) for weights_P in weights_GP])
    totals_GU = np.stack([by_unit(weights_P * change_P, unit_P) for weights_P in weights_GP])
    point, *_ = _contrasts(np.ones((1, weights_GU.shape[1])), weights_GU, totals_GU)
    drawn_B1 = _contrasts(_counts(weights_GU.shape[1], resamples), weights_GU, totals_GU)[:, None]
    sides = (weights_GP[0] > 0, weights_GP[1:].any(0))
    units = min(len(np.unique(unit_P[side])) for side in sides)
    low, high = (
        percentile_bounds(drawn_B1, 0.95, units).ravel() if units >= FEWEST_UNITS else (np.nan, np.nan)
    )
    return Interval(point, low, high, np.asarray(units))  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1)
def _counts(units: int, resamples: int) -> np.ndarray:
    """How often each unit is drawn in each resample, (B, U)."""
    return np.concatenate(list(resample(units, resamples, seed=0)))


def _contrasts(counts_BU: np.ndarray, weights_GU: np.ndarray, totals_GU: np.ndarray) -> np.ndarray:
    """(B,) first group's weighted mean minus the mean of the others', in each resample."""
    # A resample is how often each unit is drawn, so all means are two products, (B, U) @ (U, G).
    # A group that a resample did not draw has no mean, (B, G) NaN, and is left out of the others' average.
    sizes_BG = counts_BU @ weights_GU.T
    with np.errstate(invalid="ignore"):
        means_BG = (counts_BU @ totals_GU.T) / sizes_BG
    drawn_BG = sizes_BG[:, 1:] > 0
    rest_B = np.where(drawn_BG, means_BG[:, 1:], 0).sum(1) / np.maximum(drawn_BG.sum(1), 1)
    return np.where(drawn_BG.any(1), means_BG[:, 0] - rest_B, np.nan)
