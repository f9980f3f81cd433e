"""What leads to an expert, where its tokens go next, and which experts of its layer work with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...notes import with_notes
from ...read.batches import EventBatch, uses_of
from ...read.passes import map_router
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ...write.rollups import token_key
from ..experts.contexts import check_expert
from ..registry import view
from .parts import summed

BEFORE, SAME, AFTER = "before", "same layer", "after"

_SCHEMA = pa.schema(
    [
        *[("where", pa.string()), ("layer", pa.int32()), ("expert", pa.int32()), ("tokens", pa.int64())],
        *[("share", pa.float64()), ("chance", pa.float64()), ("lift", pa.float64())],
    ]
)


@view("expert-neighbours", needs=("events",))
def expert_neighbours(
    trace: TraceRows,
    *,
    layer: int,
    expert: int,
    limit: int = 8,
    least: int = 20,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """The experts of the previous, the same and the next layer that are used together with one expert.

    Args:
        limit: how many of each layer, largest lift first; 0 for all.
        least: fewest tokens of a pair.
    Returns:
        where (before, same layer, after), layer, expert, tokens (that use both), share (of the expert's tokens that
        also passed that layer), chance (share of all tokens that use the other), lift = share / chance: 1 where the two
        have nothing to do with each other. In the same layer experts exclude one another a little, so lift below 1 is
        common there.
    """
    check_expert(trace, layer, stream, expert)
    specs = trace.select_routers(None, stream)
    at = [spec.layer for spec in specs].index(layer)
    own = np.sort(np.concatenate([np.zeros(0, np.int64), *_own_keys(trace, specs[at], expert, tokens)]))
    records: list[dict[str, Any]] = []
    for where, number in ((BEFORE, at - 1), (SAME, at), (AFTER, at + 1)):
        if 0 <= number < len(specs):
            records += _of_layer(trace, specs[number], where, expert, own, tokens, limit, least)
    return with_notes(pa.Table.from_pylist(records, schema=_SCHEMA), [tokens.note()])


def _own_keys(trace: TraceRows, spec: RouterSpec, expert: int, tokens: TokenFilter) -> list[np.ndarray]:
    def of_part(batch: EventBatch) -> np.ndarray:
        rows, _ = uses_of(batch.experts, batch.offsets, expert)
        return token_key(batch.prompt_N[rows], batch.position_N[rows])

    return list(map_router(trace, of_part, spec.layer, spec.stream, tokens=tokens))


def _of_layer(
    trace: TraceRows,
    spec: RouterSpec,
    where: str,
    expert: int,
    own: np.ndarray,
    tokens: TokenFilter,
    limit: int,
    least: int,
) -> list[dict[str, Any]]:
    def of_part(batch: EventBatch) -> tuple[np.ndarray, np.ndarray, int, int]:
        key = token_key(batch.prompt_N, batch.position_N)
        # Which of the part's tokens are among the expert's own (sorted keys).
        mine = np.zeros(len(key), bool)
        if len(own):
            mine = own[np.minimum(np.searchsorted(own, key), len(own) - 1)] == key
        experts = batch.padded()

        def uses(rows: np.ndarray) -> np.ndarray:
            return np.bincount(rows[rows >= 0].astype(np.int64), minlength=spec.num_experts)

        return uses(experts[mine]), uses(experts), int(mine.sum()), len(key)

    sums = summed(map_router(trace, of_part, spec.layer, spec.stream, tokens=tokens))
    if not sums:
        return []
    both_E, uses_E, mine, total = sums
    if where == SAME:
        both_E[expert] = 0  # in its own layer it would be its own best neighbour
    if not mine:
        return []
    share_E, chance_E = both_E / mine, uses_E / total
    lift_E = np.divide(share_E, chance_E, out=np.zeros(len(share_E)), where=chance_E > 0)
    best = np.lexsort((-both_E, -lift_E))
    best = best[both_E[best] >= max(least, 1)][: limit or None]
    return [
        {
            "where": where,
            "layer": spec.layer,
            "expert": int(e),
            "tokens": int(both_E[e]),
            "share": float(share_E[e]),
            "chance": float(chance_E[e]),
            "lift": float(lift_E[e]),
        }
        for e in best
    ]
