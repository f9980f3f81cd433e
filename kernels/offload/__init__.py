"""Offloaded experts: hits of a predictive cache, waits of a ring of slots, batches of sequences that share experts.

Curves of LRU, LFU and Belady are in `moescope.kernels.consistency`. Definitions and traps: docs/methods/decisions.md.
"""

from .cache import CacheRun, PredictiveCache, allocate_slots, predictive_cache, predictive_cache_run
from .predictors import layer_frequency, recall, same_as_previous_token, transition
from .regroup import regroup, union_sizes
from .ring import RingSchedule, ring_schedule

__all__ = [
    "CacheRun",
    "PredictiveCache",
    "RingSchedule",
    "allocate_slots",
    "layer_frequency",
    "predictive_cache",
    "predictive_cache_run",
    "recall",
    "regroup",
    "ring_schedule",
    "same_as_previous_token",
    "transition",
    "union_sizes",
]
