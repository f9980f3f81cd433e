"""Intervals for statistics that resampling with repeats would bias: leave one group of units out at a time.

A bootstrap draws prompts twice, and what is drawn twice looks like a dependence: information and best thresholds come
out too large. Leaving out one group of prompts at a time repeats nothing.
"""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_real
from .bootstrap import Interval
from .percentiles import student_quantile

GROUPS = 20
"""Groups that prompts are dealt to where there are more: 20 estimates are enough for a standard error."""


def deal(units: int, groups: int = GROUPS, seed: int = 0) -> np.ndarray:
    """(units,) group of each unit, 0 .. min(units, groups) - 1, of sizes that differ by at most one."""
    return np.random.default_rng(seed).permutation(units) % max(1, min(units, groups))


def jackknife_interval(point: ArrayLike, left_out: ArrayLike, level: float = 0.95) -> Interval:
    """Student interval from estimates that each leave one group of units out.

    Args:
        point: the statistic of all units, a number or (...).
        left_out: the statistic without each of G groups of about equal size, (G, ...).
    Returns:
        `Interval` around the point: standard error sqrt((G - 1) / G sum (left_out - mean)^2), Student's t with G - 1
        degrees of freedom. NaN ends for fewer than two groups. `units` is G.
    Raises:
        ValueError: a NaN, shapes that do not fit.
    Source:
        The delete-a-group jackknife: Kott 2001, Journal of Official Statistics 17.
    """
    point_X = as_real(point, "point").astype(np.float64)
    left_GX = as_real(left_out, "left_out").astype(np.float64)
    if left_GX.ndim == 0 or left_GX.shape[1:] != point_X.shape:
        raise ValueError(f"left_out must have shape (G, *{point_X.shape}), got {left_GX.shape}")
    groups = len(left_GX)
    units = np.full(point_X.shape, groups)[()]
    if groups < 2:
        unknown = np.full(point_X.shape, np.nan)[()]
        return Interval(point_X[()], unknown, unknown, units, level)
    squares = np.sum((left_GX - left_GX.mean(0)) ** 2, axis=0)
    half = student_quantile((1 + level) / 2, groups - 1) * np.sqrt((groups - 1) / groups * squares)
    return Interval(point_X[()], (point_X - half)[()], (point_X + half)[()], units, level)
