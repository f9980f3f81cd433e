"""Whether two routings load the experts alike."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, check_size, row_chunks
from ..statistics.bootstrap import Interval, resample
from ..statistics.percentiles import percentile_bounds

CELLS_AT_ONCE = 1 << 15
"""Loads ranked at once: their arrays stay in cache."""

SMALL = 1 << 24
"""Whole numbers below it are exact in float32."""


def load_correlation(
    counts_a: ArrayLike, counts_b: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Spearman's rank correlation of the experts' loads on two sides, with an interval over prompts.

    Args:
        counts_a, counts_b: uses of each expert by each prompt, (P, E); the same prompts.
        level, resamples, seed: as for `bootstrap_interval`.
    Returns:
        `Interval` of one number in [-1, 1]; NaN where one side loads all experts equally, or for a single expert.
    Raises:
        ValueError: no prompt, negative counts, or other shapes.
    """
    a_PE, b_PE = as_amounts(counts_a, "counts_a"), as_amounts(counts_b, "counts_b")
    if a_PE.ndim != 2 or a_PE.shape != b_PE.shape or not len(a_PE):
        raise ValueError(f"counts must be (P, E) of the same prompts, got {a_PE.shape} and {b_PE.shape}")
    count = check_size(resamples, "resamples")
    # Whole numbers whose sums stay below 2 ** 24 are exact in float32, and rank in a tenth of the time.
    small = all(len(x_PE) * x_PE.max(initial=0) < SMALL and not (x_PE % 1).any() for x_PE in (a_PE, b_PE))
    kind, rank = (np.float32, ranks_of_whole) if small else (np.float64, _ranks)
    a_PE, b_PE = a_PE.astype(kind, copy=False), b_PE.astype(kind, copy=False)
    point = _spearman(a_PE.sum(0)[None], b_PE.sum(0)[None], rank)[0]
    draws = (times_BP.astype(kind, copy=False) for times_BP in resample(len(a_PE), count, seed))
    rho_B = np.concatenate([_spearman(times_BP @ a_PE, times_BP @ b_PE, rank) for times_BP in draws])
    low, high = percentile_bounds(rho_B[:, None], level, len(a_PE))[:, 0]
    return Interval(point, low, high, np.asarray(len(a_PE)), level)


def _spearman(a_BE: np.ndarray, b_BE: np.ndarray, rank: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(B,) Pearson's r of mid-ranks."""
    rho_B = np.empty(len(a_BE))
    for rows in row_chunks(len(a_BE), max(1, a_BE.shape[1]), CELLS_AT_ONCE):
        x_BE, y_BE = (_centred(rank(values_BE[rows])) for values_BE in (a_BE, b_BE))
        spread_B = np.sqrt(np.vecdot(x_BE, x_BE) * np.vecdot(y_BE, y_BE))
        rho_B[rows] = np.divide(
            np.vecdot(x_BE, y_BE), spread_B, out=np.full(len(x_BE), np.nan), where=spread_B > 0
        )
    return rho_B


def ranks_of_whole(values_BE: np.ndarray) -> np.ndarray:
    """Ranks of `_ranks` for whole numbers below `SMALL`.

    A number and its expert are sorted as one integer, which takes a fraction of the time of sorting places; runs of
    equal numbers then share the mean of their ranks.
    """
    rows, experts = values_BE.shape
    bits = max(experts - 1, 0).bit_length()
    kind = np.int32 if values_BE.max(initial=0) < 1 << (31 - bits) else np.int64
    key_BE = (values_BE.astype(kind) << bits) | np.arange(experts, dtype=kind)
    key_BE.sort(axis=1)
    sorted_N = (key_BE >> bits).ravel()
    begins_N = np.ones(rows * experts, bool)
    np.not_equal(sorted_N[1:], sorted_N[:-1], out=begins_N[1:])
    begins_N[::experts] = True  # no run reaches into the next row
    first_G = np.flatnonzero(begins_N)
    size_G = np.diff(first_G, append=rows * experts)
    place_BE = (key_BE & ((1 << bits) - 1)) + np.arange(rows)[:, None] * experts
    ranks_N = np.empty(rows * experts)
    ranks_N[place_BE.ravel()] = np.repeat(first_G % experts + (size_G + 1) / 2, size_G)
    return ranks_N.reshape(rows, experts)


def _ranks(values_BE: np.ndarray) -> np.ndarray:
    """(B, E) float64 ranks from 1 within each row, equal numbers at the mean of theirs."""
    from scipy.stats import rankdata  # takes longer to import than everything else here

    return rankdata(values_BE, axis=1)


def _centred(ranks_BE: np.ndarray) -> np.ndarray:
    return ranks_BE - ranks_BE.mean(1, keepdims=True)
