"""Correlation over languages, with a bootstrap interval.

A resample is a vector of counts over the N pairs, so a resampled Pearson r is made of weighted sums, for all
resamples at once. Spearman's rho is Pearson's r of mid-ranks, and a resample's mid-ranks are weighted sums too.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_real, check_size
from ..statistics.bootstrap import resample
from ..statistics.percentiles import percentile_bounds

FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Correlation:
    """A correlation and its percentile bootstrap interval."""

    r: float
    """-1 .. 1; 0 where x or y is constant."""
    low: float
    """NaN where every resample was degenerate."""
    high: float
    n: int
    """Pairs (languages)."""
    undefined: float
    """Share of resamples left out because x or y was constant in them: large for a handful of pairs."""
    method: str
    level: float = 0.95


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    method: Literal["pearson", "spearman"] = "pearson",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Correlation of two numbers known for each language, with an interval over languages.

    Args:
        x, y: e.g. score and mean divergence, (N,).
        method: "pearson", or "spearman" (Pearson of ranks; ties share their mean rank).
        level, resamples, seed: as for `bootstrap_interval`.
    Returns:
        `Correlation`.
    Raises:
        ValueError: fewer than 3 pairs (two points always correlate perfectly), a NaN, different lengths.
    Traps:
        Languages are few and related: the interval says how much r depends on which languages were taken, it
        is not a test of causation. Measured coverage: docs/methods/alignment.md.
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f'method must be "pearson" or "spearman", got {method!r}')
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    x_N, y_N = (as_real(values, name).astype(np.float64) for values, name in ((x, "x"), (y, "y")))
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise ValueError(f"x and y must be vectors of one length, got {x_N.shape} and {y_N.shape}")
    if len(x_N) < FEWEST_PAIRS:
        raise ValueError(f"a correlation needs at least {FEWEST_PAIRS} pairs, got {len(x_N)}")
    once_1N = np.ones((1, len(x_N)))
    point = float(np.nan_to_num(_weighted_r(x_N, y_N, once_1N, method)[0]))
    draws = resample(len(x_N), check_size(resamples, "resamples"), seed)
    r_B = np.concatenate([_weighted_r(x_N, y_N, counts_BN, method) for counts_BN in draws])
    low, high = percentile_bounds(r_B[:, None], level, len(x_N))[:, 0]
    return Correlation(point, float(low), float(high), len(x_N), float(np.isnan(r_B).mean()), method, level)


def _weighted_r(x_N: np.ndarray, y_N: np.ndarray, counts_BN: np.ndarray, method: str) -> np.ndarray:
    """(B,) r of each resample, NaN where x or y is constant in it."""
    if method == "spearman":
        x_BN, y_BN = _mid_ranks(x_N, counts_BN), _mid_ranks(y_N, counts_BN)
    else:
        x_BN, y_BN = _scaled(x_N)[None, :], _scaled(y_N)[None, :]
    n = counts_BN.sum(1, keepdims=True)
    x_BN = x_BN - np.sum(counts_BN * x_BN, 1, keepdims=True) / n
    y_BN = y_BN - np.sum(counts_BN * y_BN, 1, keepdims=True) / n
    xy, xx, yy = (
        np.einsum("bn,bn,bn->b", counts_BN, a, b) for a, b in ((x_BN, y_BN), (x_BN, x_BN), (y_BN, y_BN))
    )
    varies = _varies(x_N, counts_BN) & _varies(y_N, counts_BN)
    r = np.full(len(counts_BN), np.nan)
    np.divide(xy, np.sqrt(xx * yy), out=r, where=varies & (xx > 0) & (yy > 0))
    return np.clip(r, -1.0, 1.0)


def _varies(x_N: np.ndarray, counts_BN: np.ndarray) -> np.ndarray:
    """Whether a resample holds two different values: judged on the values, not on a rounded variance."""
    drawn = counts_BN > 0
    return np.where(drawn, x_N, -np.inf).max(1) > np.where(drawn, x_N, np.inf).min(1)


def _scaled(x_N: np.ndarray) -> np.ndarray:
    centred = x_N - x_N.mean()
    largest = np.abs(centred).max()
    return centred / largest if largest > 0 else centred


def _mid_ranks(x_N: np.ndarray, counts_BN: np.ndarray) -> np.ndarray:
    """(B, N): the rank that each value has in each resample, ties at the mean of their ranks."""
    below_NN = (x_N[:, None] < x_N[None, :]).astype(np.float64)
    equal_NN = (x_N[:, None] == x_N[None, :]).astype(np.float64)
    return counts_BN @ below_NN + (counts_BN @ equal_NN + 1) / 2
