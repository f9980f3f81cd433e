"""Local routing consistency: can a fixed handful of experts serve the next tokens?

Source: "Not All Models Suit Expert Offloading: On Local Routing Consistency of Mixture-of-Expert Models",
arXiv 2505.16056, and its released code. Definitions and traps: docs/methods/consistency.md.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, divide
from .caches import (
    HitCurve,
    cache_hit_rate,
    hit_curve,
    hit_curves,
    segment_cache_hit_rate,
    segment_hit_curve,
)
from .windows import independent_window_uses, window_uses, window_uses_by_group

__all__ = [
    "HitCurve",
    "RoutingPerformance",
    "cache_hit_rate",
    "hit_curve",
    "hit_curves",
    "independent_window_uses",
    "routing_performance",
    "segment_cache_hit_rate",
    "segment_hit_curve",
    "segment_routing_performance",
    "window_uses",
    "window_uses_by_group",
]


class RoutingPerformance(NamedTuple):
    """Segment routing best performance; arrays (E,) with pool="expert", plain numbers with pool="layer"."""

    srp: np.ndarray
    """0 .. 1; 0 for an expert that is never used."""
    threshold: np.ndarray
    """The alpha that reaches it: keep an expert where a window uses it so often. The smallest of equals."""
    size_ratio: np.ndarray
    """Kept token-expert slots over used ones: the cache that the rule would need, in units of k."""


def segment_routing_performance(
    ids: ArrayLike, num_experts: int, m: int, pool: Literal["expert", "layer"] = "expert"
) -> RoutingPerformance:
    """How well experts fixed for m tokens cover what the tokens choose (SRP).

    Args:
        ids: chosen experts of one sequence, (T, k); -1 is an empty slot.
        num_experts: E.
        m: tokens in a window.
        pool: one threshold for each "expert", or one shared by the "layer".
    Returns:
        `RoutingPerformance`: with f = uses of an expert in each sliding window of m tokens,
        SRP = max over alpha of 2 sum_{f >= alpha} f / (m #{f >= alpha} + sum f). All 0 where T < m.
    Raises:
        ValueError: an id out of range or twice in one token, float ids, m below 1, an unknown pool.
    Source:
        arXiv 2505.16056. SRP(1) = 1. For many sequences add up `window_uses` and pass them on.
    """
    return routing_performance(window_uses(ids, num_experts, m), pool)


def routing_performance(uses: ArrayLike, pool: Literal["expert", "layer"] = "expert") -> RoutingPerformance:
    """SRP from a table of `window_uses`, of one sequence or added up over many.

    Args:
        uses: (..., E, m + 1) numbers of windows.
        pool: as for `segment_routing_performance`.
    Raises:
        ValueError: an unknown pool, fewer than two columns, negative or NaN numbers.
    """
    if pool not in ("expert", "layer"):
        raise ValueError(f'pool must be "expert" or "layer", got {pool!r}')
    table = as_amounts(uses, "uses")
    if table.ndim < 2 or table.shape[-1] < 2:
        raise ValueError(f"uses must have shape (..., E, m + 1), got {table.shape}")
    if pool == "layer":
        table = table.sum(-2)
    m = table.shape[-1] - 1
    f = np.arange(1, m + 1)
    # For each threshold f: uses that the windows with at least f uses cover, and places that keeping the expert there
    # takes (m each). 2 · covered / (kept + used) is the F1 of "keep it" at that threshold; SRP is the best of them.
    covered = np.flip(np.cumsum(np.flip(table[..., 1:] * f, -1), -1), -1)
    kept = m * np.flip(np.cumsum(np.flip(table[..., 1:], -1), -1), -1)
    used = covered[..., :1]
    value = divide(2 * covered, kept + used)
    best = np.argmax(value, -1, keepdims=True)
    size_ratio = divide(np.take_along_axis(kept, best, -1), used)
    threshold = np.where(used > 0, best + 1, 0)
    srp = np.take_along_axis(value, best, -1)
    return RoutingPerformance(*(array[..., 0][()] for array in (srp, threshold, size_ratio)))
