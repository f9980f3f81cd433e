"""Percentile bootstrap over units (prompts, parallel texts, languages): never over tokens.

A resample of N units is a vector of N counts that sum to N, so all resampled means of any number of columns
are one matrix product: counts (B, N) times values (N, M).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_real, check_size, to_numpy
from .percentiles import percentile_bounds

_COLUMN_CELLS = 1 << 22
"""Resampled statistics held at once (32 MiB); more columns are done in turn."""

_COUNT_CELLS = 1 << 24
"""Counts of drawn units held at once (128 MiB)."""

_KEPT_CELLS = 1 << 21
"""Counts that are small enough (16 MiB) to be kept for the next interval."""


@dataclass(frozen=True)
class Interval:
    """A point value and its interval; arrays of one shape, or plain numbers."""

    point: np.ndarray
    """The statistic of the units as they are; NaN for a mean that no unit carries."""
    low: np.ndarray
    """Lower end; NaN where fewer than two units carry the value: nothing is known about its spread."""
    high: np.ndarray
    """Upper end, as `low`."""
    units: np.ndarray
    """How many units carry the value."""
    level: float = 0.95
    """The share of repetitions in which such an interval is meant to hold the true value."""


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], ArrayLike] | None = None,
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval for a mean over units, or for any statistic of resampled units.

    Args:
        values: one row a unit, (N, ...).
        statistic: none for the mean. Otherwise a function of an (N,) array of unit indexes (with repeats)
            that returns a number or an array; it is called `resamples` + 1 times.
        weights: how much each value counts in the mean, (N,) or the shape of `values`: tokens for a
            token-weighted mean, 0 where a unit lacks the value (the value there may be NaN). Only without
            `statistic`.
        level: 0 < level < 1.
        resamples: B.
        seed: the same seed gives the same interval, and the same resamples for every call with as many units.
    Returns:
        `Interval` with arrays of shape (...).
    Raises:
        ValueError: no units, a NaN that is not given weight 0, shapes that do not fit, level not in (0, 1).
    Traps:
        The unit must be what was sampled independently (a text, with all its languages), not the token.
        Below 10 units even the widened percentiles (see `percentiles`) cover less than they say; measured
        coverage is in docs/methods/alignment.md.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    check_size(resamples, "resamples")
    if statistic is not None:
        if weights is not None:
            raise ValueError(
                "weights apply to the mean only: a custom statistic has to weight its units itself"
            )
        return _interval_of_statistic(len(as_real(values, "values")), statistic, level, resamples, seed)
    values_NX, weights_NM = _values_and_weights(values, weights)
    shape = values_NX.shape[1:]
    values_NM = values_NX.reshape(len(values_NX), -1)
    carried_M = np.broadcast_to(np.count_nonzero(weights_NM, axis=0), values_NM.shape[1])
    point, low, high = (np.empty(values_NM.shape[1]) for _ in range(3))
    step = max(1, _COLUMN_CELLS // resamples)
    for start in range(0, values_NM.shape[1], step):
        columns = slice(start, start + step)
        amounts = weights_NM if weights_NM.shape[1] == 1 else weights_NM[:, columns]
        weighted = values_NM[:, columns] * amounts
        point[columns] = _quotient(weighted.sum(0), amounts.sum(0))
        means_BM = np.concatenate(
            [
                _quotient(counts @ weighted, counts @ amounts)
                for counts in resample(len(values_NM), resamples, seed)
            ]
        )
        low[columns], high[columns] = percentile_bounds(means_BM, level, carried_M[columns])
    return Interval(*(array.reshape(shape)[()] for array in (point, low, high, carried_M)), level=level)


FEWEST_UNITS = 5
"""Below, an interval claims more than it knows: from 3 units it holds the true value in 69 to 75 % of cases."""


def interval_of_enough(*args: Any, **kwargs: Any) -> Interval:
    """`bootstrap_interval` with NaN for both ends where fewer than `FEWEST_UNITS` units carry a value: the point alone
    is shown."""
    found = bootstrap_interval(*args, **kwargs)
    few = np.asarray(found.units) < FEWEST_UNITS
    low, high = (np.where(few, np.nan, end)[()] for end in (found.low, found.high))
    return replace(found, low=low, high=high)


def resample(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn in each resample: (some, units) float64 whose rows sum to `units`."""
    check_size(units, "the number of units")
    if units * resamples <= _KEPT_CELLS:
        yield _kept_counts(units, resamples, seed)
        return
    rng = np.random.default_rng(seed)
    step = max(1, _COUNT_CELLS // units)
    for start in range(0, resamples, step):
        yield _counts(rng, units, min(step, resamples - start))


@lru_cache(maxsize=4)
def _kept_counts(units: int, resamples: int, seed: int) -> np.ndarray:
    """A page asks for many intervals over the same units."""
    counts = _counts(np.random.default_rng(seed), units, resamples)
    counts.flags.writeable = False
    return counts


def _counts(rng: np.random.Generator, units: int, rows: int) -> np.ndarray:
    drawn = rng.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def _values_and_weights(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Values (N, ...) with 0 where their weight is 0, and weights (N, 1) or (N, M)."""
    values_NX = to_numpy(values)
    if values_NX.ndim == 0 or len(values_NX) == 0:
        raise ValueError("a bootstrap needs at least one unit: values must have shape (N, ...)")
    if weights is None:
        return as_real(values_NX, "values").astype(np.float64, copy=False), np.ones((len(values_NX), 1))
    amounts = as_amounts(weights, "weights")
    if amounts.shape not in {values_NX.shape, values_NX.shape[:1]}:
        raise ValueError(f"weights have shape {amounts.shape}, values {values_NX.shape}")
    spread = amounts.reshape(amounts.shape + (1,) * (values_NX.ndim - amounts.ndim))
    values_NX = as_real(np.where(spread > 0, values_NX, 0), "values").astype(np.float64, copy=False)
    return values_NX, amounts.reshape(len(amounts), -1)


def _quotient(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Means; NaN where no unit with any weight was drawn."""
    with np.errstate(invalid="ignore"):
        return top / bottom


def _interval_of_statistic(
    units: int, statistic: Callable[[np.ndarray], ArrayLike], level: float, resamples: int, seed: int
) -> Interval:
    check_size(units, "the number of units")
    point = np.asarray(statistic(np.arange(units)), np.float64)
    rng = np.random.default_rng(seed)
    drawn = [
        np.asarray(statistic(rng.integers(0, units, units)), np.float64).ravel() for _ in range(resamples)
    ]
    low, high = percentile_bounds(np.stack(drawn), level, units)
    carried = np.full(point.shape, units)
    return Interval(
        point[()], low.reshape(point.shape)[()], high.reshape(point.shape)[()], carried[()], level=level
    )
