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

from .._arrays import check_size
from .sequences import as_sequence, as_starts
from .stack import POLICIES, stack_hits

Policy = Literal["lru", "lfu", "belady"]


@dataclass(frozen=True)
class HitCurve:
    """Hits of caches of every size on one sequence, or on each of S. Add curves of sequences before dividing."""

    hits: np.ndarray
    """(E,) or (S, E) int64: hits of a cache of 1, 2, ... E experts."""
    accesses: int | np.ndarray
    """Filled slots of the sequence, or (S,)."""

    @property
    def rate(self) -> np.ndarray:
        """(..., E) hits / accesses; 0 where nothing was accessed."""
        return self.hits / np.maximum(self.accesses, 1)[..., None]

    def __add__(self, other: "HitCurve") -> "HitCurve":
        return HitCurve(self.hits + other.hits, self.accesses + other.accesses)

    def total(self) -> "HitCurve":
        """The curve of S sequences together."""
        return HitCurve(self.hits.sum(0), int(np.sum(self.accesses)))


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
    return _of_one(hit_curves(ids, num_experts, policy=policy))


def segment_hit_curve(ids: ArrayLike, num_experts: int, m: int) -> HitCurve:
    """`segment_cache_hit_rate` of every size at once, as counts that add up over sequences.

    Args, raises: as for `segment_cache_hit_rate`.
    """
    return _of_one(hit_curves(ids, num_experts, policy="segment", m=m))


def hit_curves(
    ids: ArrayLike,
    num_experts: int,
    starts: ArrayLike | None = None,
    *,
    policy: Policy | Literal["segment"] = "lru",
    m: int = 1,
) -> HitCurve:
    """Hits of caches of every size on many sequences that lie one behind the other: a cache starts empty in each.

    Args:
        ids, num_experts: as for `cache_hit_rate`, tokens of all sequences, (T, k).
        starts: first token of each sequence, and T at the end, (S + 1,); one sequence where None.
        policy: "lru", "lfu", "belady", or "segment", which sees m tokens.
    Returns:
        `HitCurve` with hits (S, E) and accesses (S,).
    Raises:
        ValueError: as for `cache_hit_rate`; starts that are not rising from 0 to T.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    ids_TK = as_sequence(ids, num_experts)
    bounds = as_starts(starts, len(ids_TK))
    depths = stack_hits(ids_TK, bounds, num_experts, policy, check_size(m, "m"))
    filled = np.concatenate([[0], np.cumsum(np.count_nonzero(ids_TK >= 0, axis=1))])
    return HitCurve(np.cumsum(depths, axis=1), np.diff(filled[bounds]))


def _of_one(curves: HitCurve) -> HitCurve:
    return HitCurve(curves.hits[0], int(np.sum(curves.accesses)))


def _at_sizes(curve: HitCurve, size: ArrayLike) -> np.ndarray:
    sizes = np.asarray(size)
    if sizes.dtype.kind not in "iu" or ((sizes < 1) | (sizes > len(curve.hits))).any():
        raise ValueError(f"size must be whole numbers from 1 to {len(curve.hits)}, got {size}")
    return curve.rate[sizes - 1][()]
