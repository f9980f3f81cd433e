"""Sequences compared as wholes, where their positions do not correspond."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...kernels.statistics.bootstrap import bootstrap_interval
from ..notes import with_notes
from ..views.options import DECODER, INTERVALS, Intervals, Routers
from .by_layer import ends
from .layers import shared_layers
from .pairs import Pairs

_NAMES = ("distance", "distance_low", "distance_high", "others", "others_low", "others_high")
_SCHEMA = pa.schema(
    [("layer", pa.int32()), ("stream", pa.string()), ("prompts", pa.int64())]
    + [(n, pa.float64()) for n in _NAMES]
)


def agreement_sequences(
    pairs: Pairs, *, routers: Routers = DECODER, intervals: Intervals = INTERVALS
) -> pa.Table:
    """How far apart the expert loads of paired prompts are, whether or not their tokens correspond.

    Args:
        seed: also of the pairs beside it.
    Returns:
        layer, stream, prompts, distance (mean total variation of the two sides' shares of experts, each summing to 1),
        others (the same between each prompt of A and another prompt of B: what unrelated texts give), both with their
        95 % interval over prompts. Short prompts are far apart for want of tokens alone: read it beside `others`.
    """
    rows = []
    for layer in shared_layers(pairs, routers):
        share_a, share_b = _shares(pairs, layer, routers.stream)
        if not len(share_a):
            continue
        row = {"layer": layer, "stream": routers.stream, "prompts": len(share_a)}
        # One rotation of a random order: no prompt of A meets its own partner.
        order = np.random.default_rng(intervals.seed).permutation(len(share_a))
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        for name, b in (("distance", share_b), ("others", share_b[other])):
            apart = np.abs(share_a - b).sum(1) / 2
            known = len(share_a) > 1 or name == "distance"
            row |= ends(
                name,
                bootstrap_interval(apart, resamples=intervals.resamples, seed=intervals.seed)
                if known
                else None,
            )
        rows.append(row)
    note = "All tokens of a prompt count, paired or not."
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), [note])


def _shares(pairs: Pairs, layer: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, E) shares of experts of the paired prompts that have tokens on both sides."""
    sides = []
    for trace, column in ((pairs.a, 0), (pairs.b, 1)):
        rows = trace.rollups(layer, stream, sums=("count",))
        counts = rows.grouped("count", rows.prompt_R, trace.num_prompts)
        assert counts is not None
        sides.append(counts[[prompt[column] for prompt in pairs.prompts]].astype(np.float64))
    there = (sides[0].sum(1) > 0) & (sides[1].sum(1) > 0)
    return tuple(side[there] / side[there].sum(1, keepdims=True) for side in sides)  # pyright: ignore
