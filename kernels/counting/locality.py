"""How alike the expert sets of a sequence's tokens are: repeats from token to token, and set overlap."""

from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_ids, check_range, check_size, divide, row_chunks
from .pairs import without_repeats


def repeated_assignment(ids: ArrayLike, depth: int = 1) -> float:
    """Share of consecutive tokens whose first `depth` experts have one in common.

    Args:
        ids: chosen experts of one sequence, (T, k), in descending gate weight; -1 is an empty slot.
        depth: how many of the first experts to compare, 1 .. k.
    Returns:
        0 .. 1; 0 for fewer than two tokens. Empty slots have nothing in common.
    Raises:
        ValueError: depth outside 1 .. k, ids below -1, float ids.
    Source:
        Mixtral of Experts, arXiv 2401.04088, table 5 (depth 1 and 2). Compare with
        `repeated_assignment_chance`: 1/8 at 8 experts and depth 1, 0.46 at depth 2.
    """
    shared = repeated_pairs(ids, depth)
    return float(shared.mean()) if len(shared) else 0.0


def repeated_pairs(ids: ArrayLike, depth: int = 1) -> np.ndarray:
    """Which tokens share one of their first `depth` experts with the token before them.

    Args, raises: as for `repeated_assignment`.
    Returns:
        (T - 1,) bool, of tokens 1, 2, ...; empty for fewer than two.
    """
    ids_TK = as_ids(ids)
    depth = check_size(depth, "depth")
    if depth > ids_TK.shape[1]:
        raise ValueError(f"depth is {depth}, but ids has {ids_TK.shape[1]} slots a token")
    first_TD = ids_TK[:, :depth]
    _check_floor(first_TD)
    before, after = first_TD[:-1], first_TD[1:]
    shared = np.zeros(max(len(first_TD) - 1, 0), bool)
    for slot in range(depth):
        shared |= ((before == after[:, slot, None]) & (before >= 0)).any(1)
    return shared


def repeated_assignment_chance(num_experts: int, depth: int = 1) -> float:
    """What `repeated_assignment` gives if each token chose its experts evenly and independently.

    Returns:
        1 - C(E - d, d) / C(E, d).
    """
    num_experts, depth = check_size(num_experts, "num_experts"), check_size(depth, "depth")
    if depth > num_experts:
        raise ValueError(f"depth is {depth}, but there are only {num_experts} experts")
    return 1.0 - comb(num_experts - depth, depth) / comb(num_experts, depth)


def jaccard(ids: ArrayLike, pairs: Literal["all", "adjacent"] = "all") -> float:
    """Mean Jaccard overlap of the expert sets of token pairs of one sequence.

    Args:
        ids: chosen experts of one sequence, (T, k); -1 is an empty slot.
        pairs: "all" pairs of different tokens, or "adjacent" ones.
    Returns:
        0 .. 1: the mean of |A and B| / |A or B|, 0 for a pair of empty sets, 0 for fewer than two tokens.
    Raises:
        ValueError: an unknown `pairs`, ids below -1, float ids.
    """
    if pairs not in ("all", "adjacent"):
        raise ValueError(f'pairs must be "all" or "adjacent", got {pairs!r}')
    ids_TK = as_ids(ids)
    _check_floor(ids_TK)
    tokens = len(ids_TK)
    if tokens < 2:
        return 0.0
    uses_TE = _indicator(ids_TK)
    size_T = uses_TE.sum(1)
    if pairs == "adjacent":
        shared = np.sum(uses_TE[1:] * uses_TE[:-1], 1)
        return float(divide(shared, size_T[1:] + size_T[:-1] - shared).mean())
    total = 0.0
    for rows in row_chunks(tokens, tokens, 1 << 20):
        shared = uses_TE[rows] @ uses_TE.T
        total += float(divide(shared, size_T[rows, None] + size_T - shared).sum())
    with_themselves = np.count_nonzero(size_T)
    return max(total - with_themselves, 0.0) / (tokens * (tokens - 1))


def _check_floor(ids_TK: np.ndarray) -> None:
    check_range(ids_TK, np.iinfo(ids_TK.dtype).max + 1, "ids")


def _indicator(ids_TK: np.ndarray) -> np.ndarray:
    """(T, distinct experts) float32 ones; renumbered, so a handful of experts out of 2^31 stays small."""
    experts, column = np.unique(without_repeats(ids_TK), return_inverse=True)
    uses = np.zeros((len(ids_TK), len(experts)), np.float32)
    np.put_along_axis(uses, column.reshape(ids_TK.shape), 1.0, axis=1)
    return uses[:, experts >= 0]
