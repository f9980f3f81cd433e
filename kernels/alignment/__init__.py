"""Cross-lingual alignment of routing: is a text routed as its translation is?

For each sequence and layer q is the mean over its tokens of the full router probabilities. Two sequences of
one parallel unit are compared by `routing_divergence`; divergences are averaged over units, with a bootstrap
over units.

Source: Bandarkar et al. 2025, arXiv 2510.04694. Formulas, traps and measured coverage:
docs/methods/alignment.md.
"""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_real, divide, to_numpy
from ..statistics.bootstrap import Interval, bootstrap_interval
from .correlation import Correlation, correlation
from .divergence import entropy, js_divergence, routing_divergence
from .pairwise import divergence_and_entropy, expect_divergences, pairwise_divergence
from .specialisation import KINDS, expert_kinds, selection_frequency, specialised_experts

__all__ = [
    "KINDS",
    "Correlation",
    "Interval",
    "bootstrap_interval",
    "clustering_order",
    "correlation",
    "divergence_and_entropy",
    "divergence_matrix",
    "entropy",
    "expect_divergences",
    "expert_kinds",
    "js_divergence",
    "pairwise_divergence",
    "routing_divergence",
    "selection_frequency",
    "specialised_experts",
]


def divergence_matrix(q: ArrayLike, present: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean routing divergence between every two languages over the units that both have.

    Args:
        q: routing distributions, (U, N, E): U parallel units, N languages.
        present: (U, N) bool, False where a language lacks the unit (its q is not looked at).
    Returns:
        divergence (N, N) float64, symmetric, 0 on the diagonal; NaN where two languages share no unit;
        units (N, N) int64, how many units each mean is over.
    Raises:
        ValueError: shapes that do not fit, or a distribution that is none (see `routing_divergence`).
    """
    q_UNE = to_numpy(q)
    if q_UNE.ndim != 3:
        raise ValueError(f"q must have shape (U, N, E), got {q_UNE.shape}")
    present_UN = np.ones(q_UNE.shape[:2], bool) if present is None else np.asarray(to_numpy(present), bool)
    if present_UN.shape != q_UNE.shape[:2]:
        raise ValueError(f"present has shape {present_UN.shape}, q {q_UNE.shape}")
    languages = q_UNE.shape[1]
    divergence_NN = np.full((languages, languages), np.nan)
    units_NN = present_UN.T.astype(np.int64) @ present_UN.astype(np.int64)
    one, other = np.triu_indices(languages, 1)
    # Q pairs of languages above the diagonal; a unit that one of them lacks adds 0 and is not counted.
    divergence_UQ = pairwise_divergence(q_UNE, one, other, present_UN)
    units_Q = units_NN[one, other]
    mean_Q = np.where(units_Q > 0, divergence_UQ.sum(0) / np.maximum(units_Q, 1), np.nan)
    divergence_NN[one, other] = divergence_NN[other, one] = mean_Q
    own = np.diagonal(units_NN) > 0
    divergence_NN[own, own] = 0.0
    return divergence_NN, units_NN


def clustering_order(distance: ArrayLike) -> np.ndarray:
    """An order of the rows of a distance matrix that puts similar ones side by side.

    Args:
        distance: symmetric, (N, N); NaN counts as the largest distance there is.
    Returns:
        (N,) int64, a permutation: the leaves of average-linkage clustering, each merge turned so that its two
        nearest ends meet. Equal distances are merged in the order of the rows, so the result is reproducible.
    Raises:
        ValueError: not square or not symmetric.
    """
    given_NN = to_numpy(distance).astype(np.float64)
    if given_NN.ndim != 2 or given_NN.shape[0] != given_NN.shape[1]:
        raise ValueError(f"distance must be square, got {given_NN.shape}")
    farthest = np.nanmax(given_NN, initial=0.0)
    leaf_NN = as_real(np.where(np.isnan(given_NN), farthest, given_NN), "distance")
    if not np.allclose(leaf_NN, leaf_NN.T, rtol=1e-6, atol=1e-12):
        raise ValueError("distance must be symmetric")
    # `between` holds mean distances of clusters; merged ones shrink it by a row and a column at each step.
    clusters = [[leaf] for leaf in range(len(leaf_NN))]
    between = leaf_NN.copy()
    np.fill_diagonal(between, np.inf)
    while len(clusters) > 1:
        one, other = sorted(np.unravel_index(int(np.argmin(between)), between.shape))
        sizes = np.array([len(clusters[one]), len(clusters[other])])
        merged = divide(sizes @ between[[one, other]], sizes.sum())
        merged[one] = np.inf
        between[one], between[:, one] = merged, merged
        between = np.delete(np.delete(between, other, 0), other, 1)
        clusters[one] = _joined(clusters[one], clusters.pop(other), leaf_NN)
    return np.array(clusters[0] if clusters else [], np.int64)


def _joined(left: list[int], right: list[int], leaf_NN: np.ndarray) -> list[int]:
    """Concatenate two leaf orders, each possibly reversed, so that the ends that meet are the nearest."""
    turns = [(a, b) for a in (left, left[::-1]) for b in (right, right[::-1])]
    a, b = min(turns, key=lambda turn: leaf_NN[turn[0][-1], turn[1][0]])
    return a + b
