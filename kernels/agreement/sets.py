"""The expert sets of two routings of the same tokens: what they share, and which expert replaced which.

Slots are compared column by column, in pieces that stay in cache: K · K' comparisons of narrow integers take less
time than sorting a row. For much work a compiled twin goes token by token.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_ids, check_range, check_size, row_chunks
from ..compiled import compiled_if_worth_it

SLOTS_AT_ONCE = 1 << 18
"""Slots of both sides in one piece: a column of narrow integers stays in a core's first-level cache."""

MOST_EXPERTS = 1 << 16
"""Up to so many, the compiled twins keep a table by expert; it then stays in cache."""

PLAIN_COMPARISON = 1e-9
"""Seconds for one comparison of two slots in the plain version."""


class SetCounts(NamedTuple):
    """Sizes of the sets of each token."""

    shared_T: np.ndarray
    """|A ∩ B|."""
    size_a_T: np.ndarray
    """|A|."""
    size_b_T: np.ndarray
    """|B|."""


def set_counts(ids_a: ArrayLike, ids_b: ArrayLike) -> SetCounts:
    """How many experts each side chose, and how many of them both chose.

    Args:
        ids_a, ids_b: (T, K) and (T, K'); -1 is an empty slot; an expert that fills two slots counts once.
    Returns:
        `SetCounts` of (T,) integers.
    Raises:
        ValueError: other numbers of tokens, float ids, ids below -1.
    """
    a_TK, b_TJ = as_pair(ids_a, ids_b)
    counts = np.zeros((3, len(a_TK)), np.int32)
    experts = experts_in(a_TK, b_TJ)
    work = PLAIN_COMPARISON * a_TK.size * b_TJ.shape[1]
    if experts <= MOST_EXPERTS and (fast := compiled_if_worth_it(_count_loop, work)):
        fast(counts, a_TK, b_TJ, np.full(experts, -1), np.full(experts, -1))
        return SetCounts(*counts)
    for rows in pieces(a_TK, b_TJ):
        a_KT, b_JT = slots_of(a_TK[rows], b_TJ[rows])
        own_KT, other_JT = first_uses(a_KT), first_uses(b_JT)
        counts[0, rows] = (own_KT & found_in(a_KT, b_JT)).sum(0)
        counts[1, rows], counts[2, rows] = own_KT.sum(0), other_JT.sum(0)
    return SetCounts(*counts)


def set_overlap(ids_a: ArrayLike, ids_b: ArrayLike) -> np.ndarray:
    """Share of experts that two routings have in common.

    Args:
        ids_a, ids_b: as in `set_counts`.
    Returns:
        (T,) |A ∩ B| / max(|A|, |B|), in [0, 1]; 1 for two empty sets. Compare with `overlap_chance`.
    Raises:
        ValueError: as `set_counts`.
    """
    counts = set_counts(ids_a, ids_b)
    larger_T = np.maximum(counts.size_a_T, counts.size_b_T)
    return np.divide(counts.shared_T, larger_T, out=np.ones(len(larger_T)), where=larger_T > 0)


def flipped(ids_a: ArrayLike, ids_b: ArrayLike) -> np.ndarray:
    """(T,) bool: whether the two sets of experts differ; another order of the same experts is no flip.

    Raises:
        ValueError: as `set_counts`.
    """
    counts = set_counts(ids_a, ids_b)
    return (counts.shared_T < counts.size_a_T) | (counts.shared_T < counts.size_b_T)


def first_flipped(ids_a: ArrayLike, ids_b: ArrayLike) -> np.ndarray:
    """(T,) bool: whether the first expert differs: the one in the first filled slot, of the largest gate weight.

    Counted also where the sets agree. A token without any expert on one side alone counts as flipped.

    Raises:
        ValueError: as `set_counts`.
    """
    a_TK, b_TJ = as_pair(ids_a, ids_b)
    return _first(a_TK) != _first(b_TJ)


def overlap_chance(num_experts: int, k_a: float, k_b: float) -> float:
    """What `set_overlap` is on average where two routings choose evenly and independently of each other.

    Args:
        num_experts: E.
        k_a, k_b: experts that a token uses on each side, 0 .. E; a mean where that varies.
    Returns:
        k_a · k_b / (E · max(k_a, k_b)); 1 where both are 0.
    Raises:
        ValueError: more experts a token than there are, or a negative number.
    """
    num_experts = check_size(num_experts, "num_experts")
    for name, k in (("k_a", k_a), ("k_b", k_b)):
        if not 0 <= k <= num_experts:
            raise ValueError(f"{name} must lie in 0 .. {num_experts}, the number of experts, got {k}")
    return k_a * k_b / (num_experts * max(k_a, k_b)) if max(k_a, k_b) else 1.0


def exchange(ids_a: ArrayLike, ids_b: ArrayLike, num_experts: int) -> np.ndarray:
    """Which expert replaced which.

    Over flipped tokens, each expert of A∖B is set against each of B∖A with weight 1/|B∖A|. A row sums to how often its
    expert was left for another; where B has no new expert (a smaller k), nothing took its place, and nothing is added.

    Args:
        ids_a, ids_b: as in `set_counts`, below `num_experts`.
        num_experts: E.
    Returns:
        (E, E) float64, from the expert of a to the expert of b; its diagonal is 0.
    Raises:
        ValueError: as `set_counts`, or an id of `num_experts` or above.
    """
    a_TK, b_TJ = as_pair(ids_a, ids_b)
    num_experts = check_size(num_experts, "num_experts")
    given_EE = np.zeros(num_experts * num_experts)
    for rows in pieces(a_TK, b_TJ):
        for name, ids in (("ids_a", a_TK), ("ids_b", b_TJ)):
            check_range(ids[rows], num_experts, name, rows.start)
        a_KT, b_JT = slots_of(a_TK[rows], b_TJ[rows])
        left_KT = first_uses(a_KT) & ~found_in(a_KT, b_JT)
        came_JT = first_uses(b_JT) & ~found_in(b_JT, a_KT)
        moved = np.flatnonzero(left_KT.any(0) & came_JT.any(0))
        pairs_KJT = left_KT[:, None, moved] & came_JT[None, :, moved]
        slot_a, slot_b, at = np.nonzero(pairs_KJT)
        share = 1.0 / came_JT[:, moved].sum(0)
        keys = a_KT[slot_a, moved[at]].astype(np.int64) * num_experts + b_JT[slot_b, moved[at]]
        given_EE += np.bincount(keys, share[at], minlength=len(given_EE))
    return given_EE.reshape(num_experts, num_experts)


def pieces(a_TK: np.ndarray, b_TJ: np.ndarray) -> Iterator[slice]:
    """Slices over tokens that are compared at once."""
    return row_chunks(len(a_TK), max(1, a_TK.shape[1] + b_TJ.shape[1]), SLOTS_AT_ONCE)


def as_pair(ids_a: ArrayLike, ids_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Ids of two sides, checked to be of the same tokens."""
    a_TK, b_TJ = as_ids(ids_a, "ids_a"), as_ids(ids_b, "ids_b")
    if len(a_TK) != len(b_TJ):
        raise ValueError(f"ids_a has {len(a_TK)} tokens, ids_b {len(b_TJ)}: they must be the same tokens")
    for name, ids in (("ids_a", a_TK), ("ids_b", b_TJ)):
        check_range(ids, np.iinfo(ids.dtype).max + 1, name)
    return a_TK, b_TJ


def experts_in(a_TK: np.ndarray, b_TJ: np.ndarray) -> int:
    """One more than the largest id."""
    return max(int(ids.max()) + 1 if ids.size else 0 for ids in (a_TK, b_TJ))


def slots_of(a_TK: np.ndarray, b_TJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides slot by slot, (K, T) and (K', T), contiguous and in the narrowest type that holds both."""
    highest = experts_in(a_TK, b_TJ) - 1
    kind = next(kind for kind in (np.int8, np.int16, np.int32, np.int64) if highest <= np.iinfo(kind).max)
    return tuple(np.ascontiguousarray(ids.T.astype(kind)) for ids in (a_TK, b_TJ))  # pyright: ignore


def first_uses(ids_KT: np.ndarray) -> np.ndarray:
    """(K, T) bool: filled slots whose expert is in no slot before."""
    first_KT = ids_KT >= 0
    for slot in range(1, len(ids_KT)):
        for before in range(slot):
            first_KT[slot] &= ids_KT[slot] != ids_KT[before]
    return first_KT


def found_in(ids_KT: np.ndarray, other_JT: np.ndarray) -> np.ndarray:
    """(K, T) bool: slots whose expert is in any slot of the other side."""
    found_KT = np.zeros(ids_KT.shape, bool)
    for found_T, ids_T in zip(found_KT, ids_KT, strict=True):
        for other_T in other_JT:
            found_T |= ids_T == other_T
    return found_KT


def _first(ids_TK: np.ndarray) -> np.ndarray:
    """(T,) the first filled slot's expert, -1 where there is none."""
    if ids_TK.shape[1] == 0:
        return np.full(len(ids_TK), -1)
    first_T = ids_TK[:, 0].astype(np.int64)
    late = np.flatnonzero(first_T < 0)
    filled = ids_TK[late] >= 0
    first_T[late] = np.take_along_axis(ids_TK[late], filled.argmax(1)[:, None], 1)[:, 0]
    return first_T


def _count_loop(
    counts_3T: np.ndarray, a_TK: np.ndarray, b_TJ: np.ndarray, seen_a_E: np.ndarray, seen_b_E: np.ndarray
) -> None:
    """`seen` holds the last token that chose an expert, so nothing is cleared between tokens."""
    for t in range(a_TK.shape[0]):
        shared = size_a = size_b = 0
        for i in range(a_TK.shape[1]):
            expert = a_TK[t, i]
            if expert >= 0 and seen_a_E[expert] != t:
                seen_a_E[expert] = t
                size_a += 1
        for j in range(b_TJ.shape[1]):
            expert = b_TJ[t, j]
            if expert >= 0 and seen_b_E[expert] != t:
                seen_b_E[expert] = t
                size_b += 1
                if seen_a_E[expert] == t:
                    shared += 1
        counts_3T[0, t], counts_3T[1, t], counts_3T[2, t] = shared, size_a, size_b
