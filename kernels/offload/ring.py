"""Layers that pass through a few slots: how long the computation waits for copies."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, check_size


class RingSchedule(NamedTuple):
    """One pass through all layers, in the unit of time of the arguments."""

    total: float
    stall: float
    """Of it, time in which nothing is computed."""


def ring_schedule(compute: ArrayLike, copy: ArrayLike, slots: int) -> RingSchedule:
    """Layers take turns in `slots` slots; the first ones lie there already.

    Args:
        compute: (L,) time that each layer computes.
        copy: (L,) time to copy each layer in, or one number for all.
        slots: K. Layer i + K goes into the slot of layer i once that is done; one copy at a time.
    Returns:
        6 layers, copy 2, compute 1, K = 1 .. 4 → totals 16, 10, 8, 6.
    Source:
        SE-MoE, arXiv 2205.10034. Times are what you assume; a trace has none.
    """
    compute_L = as_amounts(compute, "compute")
    copy_L = np.broadcast_to(as_amounts(copy, "copy"), compute_L.shape)
    if compute_L.ndim != 1:
        raise ValueError(f"compute must have shape (L,), got {compute_L.shape}")
    check_size(slots, "slots")
    done = np.zeros(len(compute_L))
    now = channel = 0.0
    for layer, (work, load) in enumerate(zip(compute_L, copy_L, strict=True)):
        if layer >= slots:
            channel = max(channel, done[layer - slots]) + load
            now = max(now, channel)
        now += work
        done[layer] = now
    return RingSchedule(float(now), float(now - compute_L.sum()))
