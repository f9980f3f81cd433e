"""Whole paths of tokens through the layers, and the strongest flows between two layers."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_ids, check_size, to_numpy


class PathCounts(NamedTuple):
    """N different paths, most frequent first; of equals the one of smaller experts."""

    paths: np.ndarray
    """(N, L) first experts."""
    counts: np.ndarray
    """(N,) tokens that take the path."""
    expected: np.ndarray
    """(N,) tokens that would, if layers chose independently with the shares that they have."""


class StrongestFlows(NamedTuple):
    """The largest entries of a matrix of transitions, and what is left."""

    flows: np.ndarray
    """(n, 3) a, b, count: largest count first. Whole numbers where the matrix holds whole numbers."""
    rest: float
    """All other entries: flows and rest are the sum of the matrix."""


def path_counts(ids: ArrayLike) -> PathCounts:
    """How often tokens take each path of first experts.

    Args:
        ids: first expert of each token at each layer, (L, T); a token with -1 anywhere is left out.
    Returns:
        `PathCounts`. With n_l(e) tokens at expert e of layer l, a path's expected count is T times the product of
        n_l(e) / T.
    Raises:
        ValueError: not (L, T) integers.
    Source:
        Ours. [[0,0,1,1,0,0],[2,2,2,3,2,3]]: path (0, 2) is taken 3 times, expected 2.6667.
    Trap:
        With many layers nearly every path is taken once: read windows of a few layers.
    """
    ids_LT = as_ids(ids)
    kept_LT = ids_LT[:, (ids_LT >= 0).all(0)]
    tokens = kept_LT.shape[1]
    if tokens == 0:
        return PathCounts(np.zeros((0, len(ids_LT)), np.int64), np.zeros(0, np.int64), np.zeros(0))
    names, numbers, log_share = [], np.zeros(tokens, np.int64), []
    for layer_T in kept_LT:
        experts, number_T, uses = np.unique(layer_T, return_inverse=True, return_counts=True)
        names.append(experts)
        log_share.append(np.log(uses / tokens))
        # Renumbered after each layer, so that a path of any length is one whole number.
        numbers = np.unique(numbers * len(experts) + number_T, return_inverse=True)[1]
    _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    paths = kept_LT[:, first].T.astype(np.int64)
    expected = tokens * np.exp(
        sum(
            log[np.searchsorted(name, path)]
            for name, log, path in zip(names, log_share, paths.T, strict=True)
        )
    )
    order = np.lexsort((*paths.T[::-1], -counts))
    return PathCounts(paths[order], counts[order], expected[order])


def strongest_flows(transitions: ArrayLike, n: int) -> StrongestFlows:
    """The n largest entries of a matrix of transitions, and what is left.

    Args:
        transitions: (A, B) counts, not negative. Entries of 0 are no flows.
        n: how many, 0 for none.
    Raises:
        ValueError: not two axes, a value that is negative, NaN or infinite.
    """
    counts_AB = as_amounts(transitions, "transitions")
    if counts_AB.ndim != 2:
        raise ValueError(f"transitions must have shape (A, B), got {counts_AB.shape}")
    flat = counts_AB.ravel()
    best = np.argsort(-flat, kind="stable")[: check_size(n, "n", least=0)]
    best = best[flat[best] > 0]
    a, b = np.unravel_index(best, counts_AB.shape)
    whole = to_numpy(transitions).dtype.kind in "iu"
    flows = np.column_stack([a, b, flat[best]]).astype(np.int64 if whole else np.float64)
    return StrongestFlows(flows, float(flat.sum() - flat[best].sum()))
