"""Routing divergence between pairs of several distributions of one unit: what a language matrix is made of.

The numbers of `routing_divergence`, but each distribution is checked, scaled and its own entropy taken once, not once
for each pair it is in: what is left for a pair is one sum of m log m, with m = (p + q) / 2.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import to_numpy
from ._entropies import js_and_rest_of, normalised_divergence
from ._log_sums import expect_pair_log_sums, pair_log_sums
from .divergence import SUM_TOLERANCE, normalised, rounding_step

_LOG_2 = float(np.log(2.0))

_PIECE = 1 << 16
"""Probabilities worked on at once: three float64 arrays of this size stay in a core's second-level cache."""


def expect_divergences(units: int, pairs: int, experts: int) -> None:
    """Say before reading what `pairwise_divergence` will be asked for: a compiler, where it is worth one, is then
    fetched in the meantime."""
    expect_pair_log_sums(units * pairs * experts)


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
    tolerance = max(SUM_TOLERANCE, rounding_step(q))

    def scaled(some_UNE: np.ndarray) -> np.ndarray:
        rows_RE = some_UNE.reshape(-1, some_UNE.shape[2])
        return normalised(rows_RE, tolerance, "q", some_UNE.shape[:2], ())

    return _pairwise(q, one, other, present, rounding_step(q) ** 2, scaled)[0]


def divergence_and_entropy(
    sums: ArrayLike, one: ArrayLike, other: ArrayLike, present: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`pairwise_divergence` of distributions that are still sums over tokens, and their entropies on the way.

    Args:
        sums: router probabilities added up over tokens, (U, N, E): each is scaled to sum to 1.
        one, other, present: as in `pairwise_divergence`.
    Returns:
        (U, Q) divergences, and (U, N) entropies in nats, log E where there is no distribution.
    Raises:
        ValueError: shapes that do not fit, or sums that are negative, NaN or all 0.
    """
    nothing = rounding_step(np.float64()) ** 2
    divergence_UQ, log_UN, experts = _pairwise(sums, one, other, present, nothing, _scaled)
    return divergence_UQ, np.clip(-log_UN, 0.0, np.log(experts)) + 0.0


def _pairwise(
    q: ArrayLike,
    one: ArrayLike,
    other: ArrayLike,
    present: ArrayLike | None,
    nothing: float,
    scaled: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Divergences (U, Q), sums of q log q (U, N), and E."""
    q_UNE = to_numpy(q)
    if q_UNE.ndim != 3 or q_UNE.dtype.kind not in "iuf" or q_UNE.shape[2] == 0:
        raise ValueError(f"q must hold probabilities of shape (U, N, E), got {q_UNE.dtype} {q_UNE.shape}")
    one_Q, other_Q = np.asarray(one, np.int64), np.asarray(other, np.int64)
    if one_Q.ndim != 1 or one_Q.shape != other_Q.shape:
        raise ValueError(f"one has shape {one_Q.shape}, other {other_Q.shape}: both must be (Q,)")
    present_UN = np.ones(q_UNE.shape[:2], bool) if present is None else np.asarray(to_numpy(present), bool)
    if present_UN.shape != q_UNE.shape[:2]:
        raise ValueError(f"present has shape {present_UN.shape}, q {q_UNE.shape}")
    result_UQ, log_UN = np.zeros((len(q_UNE), len(one_Q))), np.zeros(present_UN.shape)
    step = max(1, _PIECE // max(1, q_UNE[0].size if len(q_UNE) else 1))
    for start in range(0, len(q_UNE), step):
        rows = slice(start, start + step)
        p_UNE = _prepared(q_UNE[rows], present_UN[rows], scaled, start)
        log_UN[rows] = _fill(result_UQ[rows], p_UNE, one_Q, other_Q, nothing)
    result_UQ[~(present_UN[:, one_Q] & present_UN[:, other_Q])] = 0.0
    return result_UQ, log_UN, q_UNE.shape[2]


def _prepared(
    q_UNE: np.ndarray, present_UN: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray], start: int
) -> np.ndarray:
    """Distributions that sum to 1 exactly, uniform where there is none."""
    if not present_UN.all():
        q_UNE = np.where(present_UN[..., None], q_UNE, 1.0 / q_UNE.shape[-1])
    try:
        return scaled(q_UNE).reshape(q_UNE.shape)
    except ValueError as error:
        raise ValueError(f"in the units from {start}: {error}") from None


def _scaled(sums_UNE: np.ndarray) -> np.ndarray:
    """Sums as distributions in float64."""
    p_UNE = sums_UNE.astype(np.float64)
    total_UN = p_UNE.sum(-1)
    # A NaN fails every comparison, so the same tests find it.
    least, most = total_UN.min(initial=1.0), total_UN.max(initial=1.0)
    if not (p_UNE.min(initial=0.0) >= 0 and least > 0 and most < np.inf):
        raise ValueError("a sum of probabilities is negative, NaN or infinite, or they are all 0")
    p_UNE *= (1.0 / total_UN)[..., None]
    return p_UNE


def _fill(
    result_UQ: np.ndarray, p_UNE: np.ndarray, one_Q: np.ndarray, other_Q: np.ndarray, nothing: float
) -> np.ndarray:
    """Divergences into `result_UQ`; returns sums of p log p, (U, N)."""
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
    return log_UN
