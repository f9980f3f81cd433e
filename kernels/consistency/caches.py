"""Expert caches on a recorded trace: what share of the experts that tokens need is already there.

All four policies rank experts by a priority that does not depend on the size of the cache, so one pass gives
every size at once (Mattson et al. 1970): experts stand in a stack, a cache of size s holds the first s, and
an access moves its expert to the top while each expert on the way down keeps its place unless the one that
is carried down matters more.

A hit is judged against the cache before the token; a first access while slots are free counts as a hit (the
cache is warming up). Source: arXiv 2505.16056 and its released code for the segment cache. Traps:
docs/methods/consistency.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_ids, check_range, check_size
from .stack import stack_hits

Policy = Literal["lru", "lfu", "belady"]


@dataclass(frozen=True)
class HitCurve:
    """Hits of caches of every size on one sequence. Add curves of sequences before dividing."""

    hits: np.ndarray
    """(E,) int64: hits of a cache of 1, 2, ... E experts."""
    accesses: int
    """Filled slots of the sequence."""

    @property
    def rate(self) -> np.ndarray:
        """(E,) hits / accesses; 0 where nothing was accessed."""
        return self.hits / max(self.accesses, 1)

    def __add__(self, other: "HitCurve") -> "HitCurve":
        return HitCurve(self.hits + other.hits, self.accesses + other.accesses)


def segment_cache_hit_rate(ids: ArrayLike, num_experts: int, m: int, size: ArrayLike) -> np.ndarray:
    """Hit rate of a cache that sees the experts of the next tokens (segment cache best performance).

    Args:
        ids: chosen experts of one sequence, (T, k), in descending gate weight; -1 is an empty slot.
        num_experts: E.
        m: tokens it sees, the current one included.
        size: experts the cache holds, 1 .. E; a list of sizes gives an array.
    Returns:
        Hits over accesses, 0 .. 1. A miss with a full cache evicts the expert with the fewest uses in the next
        m - 1 tokens, plus one if this token still needs it; of equals the least recently used.
    Raises:
        ValueError: an id out of range or twice in one token, float ids, a size outside 1 .. E.
    Source:
        arXiv 2505.16056, released code. Not monotone in m.
    """
    return _at_sizes(segment_hit_curve(ids, num_experts, m), size)


def cache_hit_rate(ids: ArrayLike, num_experts: int, size: ArrayLike, policy: Policy = "lru") -> np.ndarray:
    """Hit rate of an ordinary expert cache.

    Args:
        ids, num_experts, size: as for `segment_cache_hit_rate`.
        policy: "lru" evicts the least recently used; "lfu" the least often used since the sequence began (of
            equals, the least recently used); "belady" the one whose next use is farthest away, which no real
            cache can know.
    Returns:
        Hits over accesses, 0 .. 1.
    Raises:
        ValueError: as for `segment_cache_hit_rate`; an unknown policy.
    """
    return _at_sizes(hit_curve(ids, num_experts, policy), size)


def hit_curve(ids: ArrayLike, num_experts: int, policy: Policy = "lru") -> HitCurve:
    """`cache_hit_rate` of every size at once, as counts that add up over sequences.

    Args, raises: as for `cache_hit_rate`.
    """
    if policy not in ("lru", "lfu", "belady"):
        raise ValueError(f'policy must be "lru", "lfu" or "belady", got {policy!r}')
    return _curve(as_sequence(ids, num_experts), num_experts, policy, 1)


def segment_hit_curve(ids: ArrayLike, num_experts: int, m: int) -> HitCurve:
    """`segment_cache_hit_rate` of every size at once, as counts that add up over sequences.

    Args, raises: as for `segment_cache_hit_rate`.
    """
    return _curve(as_sequence(ids, num_experts), num_experts, "segment", check_size(m, "m"))


def as_sequence(ids: ArrayLike, num_experts: int) -> np.ndarray:
    """Ids of one sequence, (T, k), checked: in range, and no expert twice in one token."""
    ids_TK = as_ids(ids)
    check_range(ids_TK, check_size(num_experts, "num_experts"), "ids")
    ordered = np.sort(ids_TK, axis=1)
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if again.any():
        token = int(np.argmax(again.any(1)))
        raise ValueError(f"ids[{token}] names an expert twice: {ids_TK[token].tolist()}")
    return ids_TK


def _at_sizes(curve: HitCurve, size: ArrayLike) -> np.ndarray:
    sizes = np.asarray(size)
    if sizes.dtype.kind not in "iu" or ((sizes < 1) | (sizes > len(curve.hits))).any():
        raise ValueError(f"size must be whole numbers from 1 to {len(curve.hits)}, got {size}")
    return curve.rate[sizes - 1][()]


def _curve(ids_TK: np.ndarray, num_experts: int, policy: str, m: int) -> HitCurve:
    filled = ids_TK >= 0
    experts = ids_TK[filled].astype(np.int64)
    depths = stack_hits(experts, np.cumsum(filled.sum(1)), num_experts, policy, m)
    return HitCurve(np.cumsum(depths), len(experts))
