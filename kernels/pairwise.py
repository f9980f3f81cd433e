"""Routing divergence between pairs of several distributions of one unit: what a language matrix is made of.

The numbers of `routing_divergence`, but each distribution is checked, scaled and its own entropy taken once, not once
for each pair it is in: what is left for a pair is one sum of m log m, with m = (p + q) / 2.
"""

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import to_numpy
from ._entropies import js_and_rest_of, normalised_divergence
from ._log_sums import pair_log_sums
from .divergence import SUM_TOLERANCE, normalised, rounding_step

_LOG_2 = float(np.log(2.0))

_PIECE = 1 << 16
"""Probabilities worked on at once: three float64 arrays of this size stay in a core's second-level cache."""


def pairwise_divergence(
    q: ArrayLike, one: ArrayLike, other: ArrayLike, present: ArrayLike | None = None
) -> np.ndarray:
    """Routing divergence of Q pairs among the N distributions of each unit.

    Args:
        q: router probabilities, (U, N, E), each scaled to sum to 1 within 1e-4.
        one, other: numbers (0 .. N - 1) of the two distributions of each pair, (Q,).
        present: (U, N) bool, False where a unit lacks a distribution (its q is not looked at).
    Returns:
        (U, Q) float64 in [0, 1]; 0 where either is not present.
    Raises:
        ValueError: shapes that do not fit, or a distribution that is none (see `routing_divergence`).
    """
    q_UNE = to_numpy(q)
    if q_UNE.ndim != 3 or q_UNE.dtype.kind not in "iuf" or q_UNE.shape[2] == 0:
        raise ValueError(f"q must hold probabilities of shape (U, N, E), got {q_UNE.dtype} {q_UNE.shape}")
    one_Q, other_Q = np.asarray(one, np.int64), np.asarray(other, np.int64)
    if one_Q.ndim != 1 or one_Q.shape != other_Q.shape:
        raise ValueError(f"one has shape {one_Q.shape}, other {other_Q.shape}: both must be (Q,)")
    present_UN = np.ones(q_UNE.shape[:2], bool) if present is None else np.asarray(to_numpy(present), bool)
    if present_UN.shape != q_UNE.shape[:2]:
        raise ValueError(f"present has shape {present_UN.shape}, q {q_UNE.shape}")
    nothing, tolerance = rounding_step(q) ** 2, max(SUM_TOLERANCE, rounding_step(q))
    result_UQ = np.zeros((len(q_UNE), len(one_Q)))
    step = max(1, _PIECE // max(1, q_UNE[0].size if len(q_UNE) else 1))
    for start in range(0, len(q_UNE), step):
        rows = slice(start, start + step)
        p_UNE = _checked(q_UNE[rows], present_UN[rows], tolerance, start)
        _fill(result_UQ[rows], p_UNE, one_Q, other_Q, nothing)
    result_UQ[~(present_UN[:, one_Q] & present_UN[:, other_Q])] = 0.0
    return result_UQ


def _checked(q_UNE: np.ndarray, present_UN: np.ndarray, tolerance: float, start: int) -> np.ndarray:
    """Distributions that sum to 1 exactly, uniform where there is none."""
    experts = q_UNE.shape[-1]
    if not present_UN.all():
        q_UNE = np.where(present_UN[..., None], q_UNE, 1.0 / experts)
    try:
        rows = normalised(q_UNE.reshape(-1, experts), tolerance, "q", q_UNE.shape[:-1], ())
    except ValueError as error:
        raise ValueError(f"in the units from {start}: {error}") from None
    return rows.reshape(q_UNE.shape)


def _fill(
    result_UQ: np.ndarray, p_UNE: np.ndarray, one_Q: np.ndarray, other_Q: np.ndarray, nothing: float
) -> None:
    each = np.arange(p_UNE.shape[1])
    # x log x = (s log s - s log 2) / 2 with s = 2 x, and the s of a distribution, or of a pair, sum to 2.
    log_UN = 0.5 * pair_log_sums(p_UNE, each, each) - _LOG_2
    mean_UQ = 0.5 * (log_UN[:, one_Q] + log_UN[:, other_Q])
    middle_UQ = 0.5 * pair_log_sums(p_UNE, one_Q, other_Q) - _LOG_2

    def rows(chosen_UQ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unit, pair = np.nonzero(chosen_UQ)
        return p_UNE[unit, one_Q[pair]], p_UNE[unit, other_Q[pair]]

    js_UQ, rest_UQ = js_and_rest_of(rows, p_UNE.shape[-1], mean_UQ, middle_UQ)
    result_UQ[:] = normalised_divergence(js_UQ, rest_UQ, nothing)
