"""What share of the experts that tokens need a cache of each size would hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.consistency import hit_curves
from ....kernels.counting import count_experts
from ....kernels.statistics.jackknife import GROUPS, deal, jackknife_interval
from ...errors import BadArgument
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.sequences import PHASE
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ...write.rollups import PHASES
from ..options import DECODER, Routers
from ..registry import view
from .consistency import by_phase, whole_numbers
from .parts import add

POLICIES = ("lru", "lfu", "belady", "segment", "fixed")

_SCHEMA = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("phase", pa.string()), ("policy", pa.string())],
        *[("size", pa.int32()), ("hit_rate", pa.float64()), ("low", pa.float64()), ("high", pa.float64())],
        *[("hits", pa.int64()), ("accesses", pa.int64()), ("experts", pa.int32()), ("top_k", pa.int32())],
    ]
)


@view("cache-hits", needs=("events",))
def cache_hits(
    trace: TraceRows,
    *,
    sizes: str | None = None,
    policies: str = "lru,lfu,belady,segment,fixed",
    ahead: int = 16,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Hit rate of an expert cache by layer, phase, policy and size.

    Args:
        sizes: experts that a layer's cache holds, e.g. 4,8,16; every size by default.
        policies: of lru, lfu, belady (knows the future), segment (SCH: sees some tokens ahead) and fixed (the
            experts that these tokens use most, never changed: what load alone gives).
        ahead: tokens that the segment cache sees, the current one included.
    Returns:
        layer, stream, phase (prefill, decode), policy, size, hit_rate = hits / accesses, low, high (95 %, jackknife
        over groups of prompts), hits, accesses, experts, top_k. Caches start empty in every sequence, and a first
        access while there is room is a hit: see docs/methods/consistency.md.
    """
    chosen = [name.strip() for name in policies.split(",")]
    if unknown := sorted(set(chosen) - set(POLICIES)):
        raise BadArgument(f"policies name {unknown[0]!r}; there are: {', '.join(POLICIES)}")
    wanted = None if sizes is None else whole_numbers(sizes, "sizes")
    groups = deal(trace.num_prompts)
    pieces = [_SCHEMA.empty_table()]
    shown = routers.specs(trace)
    most = max((spec.num_experts for spec in shown), default=0)
    if wanted is not None and not all(1 <= size <= most for size in wanted):
        raise BadArgument(
            f"sizes are from 1 to {most}, the experts of a layer: a cache of all of them always hits"
        )
    for spec in shown:
        found = _of_layer(trace, spec, chosen, ahead, groups, tokens)
        pieces += [_table(spec, policy, found[policy], wanted) for policy in chosen]
    ours = (
        "A cache starts empty in every sequence (a prompt in one phase), which flatters short ones. Intervals leave "
        f"out one of at most {GROUPS} groups of prompts at a time."
    )
    return with_notes(pa.concat_tables(pieces).combine_chunks(), [ours, tokens.note()])


def _table(spec: RouterSpec, policy: str, found: tuple[Any, ...], wanted: list[int] | None) -> pa.Table:
    pieces = [_SCHEMA.empty_table()]
    size_C = np.arange(1, spec.num_experts + 1)
    if wanted is not None:
        size_C = size_C[np.isin(size_C, wanted)]
    for phase, hits_GE, accesses_G in zip(*[iter(found)] * 3, strict=True):
        # Fixed: hits (G, E) come by expert; the cache of size s holds the s most used, so its hits are a running sum.
        # The other policies come by size already; size s is column s - 1.
        if policy == "fixed":
            hits_GE = np.cumsum(hits_GE[:, np.argsort(-hits_GE.sum(0), kind="stable")], axis=1)
        hits_GC = hits_GE[:, size_C - 1]
        rate, low, high = _rates(hits_GC, accesses_G)
        columns: dict[str, Any] = {"layer": spec.layer, "stream": spec.stream, "phase": PHASES[phase]}
        columns |= {"policy": policy, "size": size_C, "hit_rate": rate, "low": low, "high": high}
        columns |= {"hits": hits_GC.sum(0), "accesses": int(accesses_G.sum())}
        columns |= {"experts": spec.num_experts, "top_k": spec.top_k}
        arrays = [
            pa.array(columns[f.name], f.type, from_pandas=True)
            if isinstance(columns[f.name], np.ndarray)
            else pa.repeat(pa.scalar(columns[f.name], f.type), len(size_C))
            for f in _SCHEMA
        ]
        pieces.append(pa.Table.from_arrays(arrays, schema=_SCHEMA))
    return pa.concat_tables(pieces)


def _rates(hits_GC: np.ndarray, accesses_G: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total_C, total = hits_GC.sum(0), int(accesses_G.sum())
    rate_C = total_C / max(total, 1)
    there = (accesses_G > 0) & (accesses_G < total)
    without = (total_C - hits_GC[there]) / (total - accesses_G[there])[:, None]
    found = jackknife_interval(rate_C, without.reshape(-1, len(rate_C)))
    return rate_C, np.maximum(found.low, 0), np.minimum(found.high, 1)


def _of_layer(
    trace: TraceRows,
    spec: RouterSpec,
    policies: Sequence[str],
    ahead: int,
    groups: np.ndarray,
    tokens: TokenFilter,
) -> dict[str, tuple[Any, ...]]:
    """By policy: phase, hits (G, E) (for "fixed" uses), accesses (G,), and so on for each phase. What is not remembered
    is worked out in one pass over the events."""

    def key(policy: str) -> tuple[Any, ...]:
        return "cache hits", spec.layer, spec.stream, policy, ahead if policy == "segment" else 1, tokens.key

    found = {policy: trace.memo.find(key(policy)) for policy in policies}
    missing = [policy for policy, made in found.items() if made is None]
    sums: dict[tuple[str, int], list[np.ndarray]] = {}

    def of_part(batch: EventBatch) -> _Sums:
        return _of_part(batch, spec.num_experts, missing, ahead, groups)

    parts = map_router(trace, of_part, spec.layer, spec.stream, token_columns=PHASE, tokens=tokens)
    for part in parts if missing else ():
        for of, arrays in part.items():
            sums[of] = add(sums.get(of), arrays)
    for policy in missing:
        phases = sorted(phase for name, phase in sums if name == policy)
        made = tuple(item for phase in phases for item in (phase, *sums[policy, phase]))
        trace.memo.put(key(policy), made)
        found[policy] = made
    return {policy: made for policy, made in found.items() if made is not None}


_Sums = dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]


def _of_part(
    batch: EventBatch, num_experts: int, policies: Sequence[Any], ahead: int, groups: np.ndarray
) -> _Sums:
    """By policy and phase: hits of each group and size, accesses of each group."""
    phases = list(by_phase(batch))
    if not phases:
        return {}
    starts, ids = phases[0][1], batch.padded()
    group_S, num_groups = groups[batch.prompt_index[starts[:-1]]], int(groups.max()) + 1
    found: _Sums = {}
    for policy in policies:
        curves = None if policy == "fixed" else hit_curves(ids, num_experts, starts, policy=policy, m=ahead)
        for phase, _, of_phase in phases:
            if curves is None:
                group_N = np.repeat(np.where(of_phase, group_S, -1), np.diff(starts))
                uses = count_experts(ids, num_experts, group_N, num_groups)
                found[policy, phase] = uses, uses.sum(1)
            else:
                member_GS = (np.arange(num_groups)[:, None] == group_S) & of_phase
                # Whole numbers far below 2^53: a product of floats is exact, and faster than one of integers.
                hits = member_GS.astype(np.float64) @ curves.hits.astype(np.float64)
                found[policy, phase] = hits.astype(np.int64), member_GS @ np.asarray(curves.accesses)
    return found
