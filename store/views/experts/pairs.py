"""Experts that work together: within a layer, and from one layer to the next."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ....kernels.counting import co_activation, transitions
from ...errors import StoreError
from ...read.passes import EventBatch, map_router
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...write.rollups import token_key
from ..registry import view

LARGEST = 4096


@view("co-activation", needs=("events",))
def co_activation_view(
    trace: TraceRows, *, layer: int, stream: str = "decoder", tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """How often two experts of a layer are chosen by the same token (all pairs of a token's experts).

    Returns:
        expert_a, expert_b (a < b; every pair), tokens (that use both), uses_a, uses_b, lift = tokens · T /
        (uses_a · uses_b): 1 where the two are independent, 0 where one is never used.
    """
    experts = _checked(trace, layer, stream)
    both = np.zeros((experts, experts), np.int64)
    total = 0

    def count(batch: EventBatch) -> tuple[np.ndarray, int]:
        return co_activation(batch.padded(), experts), len(batch.prompt_N)

    for more, passed in map_router(trace, count, layer, stream, tokens=tokens):
        both += more
        total += passed
    a, b = np.triu_indices(experts, 1)
    uses = np.diagonal(both)  # tokens that use an expert "with itself"
    chance = uses[a].astype(np.float64) * uses[b]
    lift = np.divide(both[a, b] * float(total), chance, out=np.zeros(len(a)), where=chance > 0)
    return pa.table(
        {
            "expert_a": a.astype(np.int32),
            "expert_b": b.astype(np.int32),
            "tokens": both[a, b],
            "uses_a": uses[a],
            "uses_b": uses[b],
            "lift": lift,
        }
    )


@view("transitions", needs=("events",))
def transitions_view(
    trace: TraceRows,
    *,
    layer: int,
    to_layer: int | None = None,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """How tokens go from the experts of one layer to those of another (by default the next with a router).

    Returns:
        from_layer, to_layer, from_expert, to_expert, pairs (over tokens, all k × k pairs), share = pairs /
        all pairs that leave from_expert (0 where none does), lift = share / share of all pairs that arrive at
        to_expert: 1 where the two layers are independent (0 where no pair leaves or arrives).
    """
    target = _next_layer(trace, layer, stream) if to_layer is None else to_layer
    from_experts, to_experts = (_checked(trace, at, stream) for at in (layer, target))
    pairs = np.zeros((from_experts, to_experts), np.int64)
    for here, there in _aligned(trace, layer, target, stream, tokens):
        pairs += transitions(here, there, from_experts, to_experts)
    leaving = pairs.sum(1, keepdims=True)
    share = np.divide(pairs, leaving, out=np.zeros(pairs.shape), where=leaving > 0)
    # What arrives at an expert whatever it left: the share that independent layers would give.
    arriving = pairs.sum(0) / max(pairs.sum(), 1)
    lift = np.divide(share, arriving, out=np.zeros(pairs.shape), where=arriving > 0)
    size = pairs.size
    return pa.table(
        {
            "from_layer": np.full(size, layer, np.int32),
            "to_layer": np.full(size, target, np.int32),
            "from_expert": np.repeat(np.arange(from_experts, dtype=np.int32), to_experts),
            "to_expert": np.tile(np.arange(to_experts, dtype=np.int32), from_experts),
            "pairs": pairs.reshape(-1),
            "share": share.reshape(-1),
            "lift": lift.reshape(-1),
        }
    )


def _checked(trace: TraceRows, layer: int, stream: str) -> int:
    experts = trace.router(layer, stream).num_experts
    if experts > LARGEST:
        raise StoreError(f"layer {layer} has {experts:,} experts: pairs are shown up to {LARGEST:,}")
    return experts


def _next_layer(trace: TraceRows, layer: int, stream: str) -> int:
    trace.router(layer, stream)
    later = [spec.layer for spec in trace.select_routers(None, stream) if spec.layer > layer]
    if not later:
        raise StoreError(f"layer {layer} is the last with a router in stream {stream!r}")
    return min(later)


def _aligned(
    trace: TraceRows,
    layer: int,
    target: int,
    stream: str,
    tokens: TokenFilter,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Experts of the tokens that passed both routers, (N, K) each, part by part."""
    here, there = (trace.iter_router(at, stream, tokens=tokens) for at in (layer, target))
    for a, b in zip(here, there, strict=True):
        yield _same_tokens(a, b)


def _same_tokens(a: EventBatch, b: EventBatch) -> tuple[np.ndarray, np.ndarray]:
    if np.array_equal(a.prompt_N, b.prompt_N) and np.array_equal(a.position_N, b.position_N):
        return a.padded(), b.padded()
    key_a, key_b = (token_key(batch.prompt_N, batch.position_N) for batch in (a, b))
    _, at_a, at_b = np.intersect1d(key_a, key_b, assume_unique=True, return_indices=True)
    return a.padded()[at_a], b.padded()[at_b]
