"""Whether two routings load the experts alike."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from .._arrays import as_amounts, check_size
from ..statistics.bootstrap import Interval, resample
from ..statistics.percentiles import percentile_bounds


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
    point = _spearman(a_PE.sum(0)[None], b_PE.sum(0)[None])[0]
    draws = resample(len(a_PE), check_size(resamples, "resamples"), seed)
    rho_B = np.concatenate([_spearman(times_BP @ a_PE, times_BP @ b_PE) for times_BP in draws])
    low, high = percentile_bounds(rho_B[:, None], level, len(a_PE))[:, 0]
    return Interval(point, low, high, np.asarray(len(a_PE)), level)


def _spearman(a_BE: np.ndarray, b_BE: np.ndarray) -> np.ndarray:
    """(B,) Pearson's r of mid-ranks."""
    x_BE, y_BE = (_centred(rankdata(values, axis=1)) for values in (a_BE, b_BE))
    spread_B = np.sqrt(np.vecdot(x_BE, x_BE) * np.vecdot(y_BE, y_BE))
    return np.divide(np.vecdot(x_BE, y_BE), spread_B, out=np.full(len(x_BE), np.nan), where=spread_B > 0)


def _centred(ranks_BE: np.ndarray) -> np.ndarray:
    return ranks_BE - ranks_BE.mean(1, keepdims=True)
