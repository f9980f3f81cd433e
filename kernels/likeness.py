"""Which experts are alike, and what becomes of them when they are merged.

Definitions and traps: docs/methods/decisions.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import as_amounts, as_real, check_size, divide


def output_similarity(outputs: ArrayLike) -> np.ndarray:
    """Mean over the same probe tokens of the cosine between two experts' outputs.

    Args:
        outputs: (E, T, d): every expert's output for the same T tokens, chosen for them or not.
    Returns:
        (E, E), symmetric. A zero output has cosine 0 to everything, so an expert's entry with itself is the share of
        tokens for which it is not zero.
    Source:
        Sub-MoE, arXiv 2506.23266.
    """
    values = as_real(outputs, "outputs").astype(np.float64)
    if values.ndim != 3 or values.shape[1] == 0:
        raise ValueError(f"outputs must have shape (E, T, d) with T > 0, got {values.shape}")
    unit = divide(values, np.linalg.norm(values, axis=2, keepdims=True))
    # One product over (token, dimension): the mean of cosines is a cosine of the stacked unit vectors.
    flat = unit.reshape(len(unit), -1)
    return flat @ flat.T / values.shape[1]


def row_cosine(rows: ArrayLike) -> np.ndarray:
    """(E, E) cosine between the rows of a router's weight (E, d)."""
    return output_similarity(as_real(rows, "rows")[:, None, :])


def linkage(similarity: ArrayLike) -> np.ndarray:
    """Average-linkage dendrogram of experts at distance 1 − similarity, as SciPy has it: (E − 1, 4)."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    distance = 1 - _checked(similarity)
    np.fill_diagonal(distance, 0)
    return hierarchy.linkage(squareform(np.maximum(distance, 0), checks=False), "average")


def expert_clusters(similarity: ArrayLike, n: int) -> np.ndarray:
    """Experts in n clusters of like ones.

    Args:
        similarity: (E, E) symmetric.
        n: clusters.
    Returns:
        (E,) cluster, numbered by their first expert.
    Method:
        Average linkage, then single experts move, and pairs change places, as long as the mean similarity of pairs
        within a cluster grows: the best that such steps reach, not proven the best of all.
    """
    from scipy.cluster import hierarchy

    near = _checked(similarity)
    experts = len(near)
    if check_size(n, "n") > experts:
        raise ValueError(f"n is {n}, but there are {experts} experts")
    if n == experts:
        return np.arange(experts)
    cluster = hierarchy.fcluster(linkage(near), n, "maxclust") - 1
    if len(np.unique(cluster)) < n:
        cluster = _split(cluster, n)
    return _by_first(_improved(near, cluster, n))


def similarity_within(similarity: ArrayLike, cluster: ArrayLike) -> float:
    """Mean similarity of all pairs of experts that share a cluster; 0 without such a pair."""
    near, label = _checked(similarity), np.asarray(cluster)
    together = np.triu(label[:, None] == label, 1)
    return float(near[together].mean()) if together.any() else 0.0


def merged(weights: ArrayLike, frequency: ArrayLike) -> np.ndarray:
    """Experts as one: the mean of their weights, weighted by how often they are used.

    Args:
        weights: (n, ...) one array an expert.
        frequency: (n,), not negative; where all are 0 each counts the same.
    Source:
        Sub-MoE, arXiv 2506.23266, whose subspace merge without truncation equals this exactly.
    """
    values, uses = as_real(weights, "weights").astype(np.float64), as_amounts(frequency, "frequency")
    if values.shape[:1] != uses.shape or len(uses) == 0:
        raise ValueError(f"weights {values.shape} and frequency {uses.shape} must begin with the same number")
    share = uses / uses.sum() if uses.sum() > 0 else np.full(len(uses), 1 / len(uses))
    return np.tensordot(share, values, 1)


def subspace_merged(weights: ArrayLike, frequency: ArrayLike, rank: int | None = None) -> np.ndarray:
    """The same in the space that the experts share: SVD of [W_1 ... W_n], their right factors merged by frequency.

    Args:
        weights: (n, outputs, inputs).
        rank: directions kept, all where None.
    Source:
        Sub-MoE, arXiv 2506.23266.
    """
    values = as_real(weights, "weights").astype(np.float64)
    if values.ndim != 3:
        raise ValueError(f"weights must have shape (n, outputs, inputs), got {values.shape}")
    left, size, right = np.linalg.svd(np.concatenate(list(values), axis=1), full_matrices=False)
    kept = len(size) if rank is None else check_size(rank, "rank")
    factors = np.stack(np.split(right[:kept], len(values), axis=1))
    return left[:, :kept] * size[:kept] @ merged(factors, frequency)


def energy_at_rank(stack: ArrayLike, r: ArrayLike) -> np.ndarray:
    """Share of a matrix's squared singular values in the r largest.

    Args:
        stack: (rows, columns), or (E, rows, columns) of experts, which are stacked row upon row.
        r: a rank or several.
    Returns:
        As r. [[4,0],[0,3]] → .64 at 1 and 1 at 2; 0 for a matrix of zeros.
    Source:
        MoLE, arXiv 2503.23100.
    """
    values = as_real(stack, "stack").astype(np.float64)
    values = values.reshape(-1, values.shape[-1])
    # The smaller Gram matrix has the same squared singular values, at a fraction of the time.
    gram = values.T @ values if values.shape[0] >= values.shape[1] else values @ values.T
    energy = np.concatenate([[0], np.cumsum(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))])
    ranks = np.asarray(r)
    if ranks.size and (ranks.dtype.kind not in "iu" or ranks.min() < 0):
        raise ValueError(f"r must be whole numbers of at least 0, got {r}")
    return divide(energy[np.minimum(ranks, len(energy) - 1)], energy[-1])[()]


def _checked(similarity: ArrayLike) -> np.ndarray:
    near = as_real(similarity, "similarity").astype(np.float64)
    if near.ndim != 2 or near.shape[0] != near.shape[1] or len(near) == 0:
        raise ValueError(f"similarity must be square, got {near.shape}")
    if not np.allclose(near, near.T, atol=1e-6):
        raise ValueError("similarity must be symmetric")
    return (near + near.T) / 2


def _split(cluster: np.ndarray, n: int) -> np.ndarray:
    """As many clusters as asked for, where equal distances left fewer: the largest gives up its last expert."""
    label = np.unique(cluster, return_inverse=True)[1]
    while (have := label.max() + 1) < n:
        largest = np.bincount(label).argmax()
        label[np.flatnonzero(label == largest)[-1]] = have
    return label


def _improved(near: np.ndarray, cluster: np.ndarray, n: int) -> np.ndarray:
    """Local search: the move of one expert, or the exchange of two, that raises the mean likeness within clusters most,
    until none does. (E,) cluster numbers from (E, E) likeness."""
    label = np.unique(cluster, return_inverse=True)[1]
    experts = len(near)
    together = label[:, None] == label
    pairs = (together.sum() - experts) / 2
    total = (near[together].sum() - np.trace(near)) / 2
    for _ in range(20 * experts):
        # Likeness of each expert with each whole cluster, itself left out: moves and exchanges are sums of these.
        near_EC = near @ np.eye(n)[label] - np.diag(near)[:, None] * np.eye(n)[label]
        sizes = np.bincount(label, minlength=n)
        own = near_EC[np.arange(experts), label]
        new_pairs = pairs - (sizes[label] - 1)[:, None] + sizes[None]
        mean = divide(total - own[:, None] + near_EC, new_pairs)
        mean[np.arange(experts), label] = -np.inf
        mean[sizes[label] == 1] = -np.inf  # a move must not empty a cluster
        moved = np.unravel_index(int(np.argmax(mean)), mean.shape)
        # (E, E): the sum after a and b change places; both keep their likeness with each other out of it.
        gain = near_EC[:, label] - own[:, None]
        swapped = total + gain + gain.T - 2 * near
        swapped[label[:, None] == label] = -np.inf
        best_swap = np.unravel_index(int(np.argmax(swapped)), swapped.shape)
        now, by_swap = total / pairs if pairs else 0, swapped[best_swap] / pairs if pairs else -np.inf
        if max(mean[moved], by_swap) <= now + 1e-12:
            break
        if mean[moved] >= by_swap:
            total += near_EC[moved] - own[moved[0]]
            pairs, label[moved[0]] = new_pairs[moved], moved[1]
        else:
            a, b = best_swap
            total, label[a], label[b] = swapped[best_swap], label[b], label[a]
    return label


def _by_first(label: np.ndarray) -> np.ndarray:
    first = np.unique(label, return_index=True)[1]
    return np.argsort(np.argsort(first))[label]
