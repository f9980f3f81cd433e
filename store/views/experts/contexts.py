"""The single tokens that gave an expert the most gate weight, without reading all events.

Rollups hold the largest weight of each (prompt, expert). The best n tokens lie in the n prompts with the
largest such maxima, because each of those has at least one token that is no worse: so prompts are read in
falling order of their maximum, and no further than where the n-th best token found beats the next maximum.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from ...errors import StoreError
from ...files.layout import TOKENS_FILE
from ...files.manifest import PartEntry
from ...files.threads import READERS
from ...read.batches import uses_of
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view

_AT_ONCE = 16

USES = pa.schema(
    [("key", pa.int32()), ("position", pa.int32()), ("weight", pa.float64()), ("slot", pa.int32())]
)


@view("expert-contexts", needs=("events",))
def expert_contexts(
    trace: TraceRows,
    *,
    layer: int,
    expert: int,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
    context: int = 12,
    per_prompt: int = 0,
    limit: int = 50,
) -> pa.Table:
    """Where an expert got its highest gate weights: single tokens with the text around them.

    Args:
        context: tokens of text before and after.
        per_prompt: at most so many from one prompt; 0 for no limit.
        limit: how many tokens.
    Returns:
        prompt_id, language, position, token, before, after, weight (null where the trace has none: then the
        tokens that have the expert in their first slots, from the prompts that use it most), slot (0 =
        first).
    """
    check_expert(trace, layer, stream, expert)
    uses = best_uses(
        trace,
        layer=layer,
        expert=expert,
        stream=stream,
        tokens=tokens,
        per_prompt=per_prompt,
        limit=limit,
    )
    return with_context(trace, uses, context)


def check_expert(trace: TraceRows, layer: int, stream: str, expert: int) -> None:
    """Raises StoreError where a layer has no expert of this number."""
    spec = trace.router(layer, stream)
    if not 0 <= expert < spec.num_experts:
        raise StoreError(f"layer {layer} has experts 0 to {spec.num_experts - 1}, not {expert}")


def best_uses(
    trace: TraceRows,
    *,
    layer: int,
    expert: int,
    stream: str,
    tokens: TokenFilter,
    per_prompt: int,
    limit: int,
) -> pa.Table:
    """Columns of `USES`, best first; `key` is the prompt's key."""
    weighted = "weights" in trace.manifest.capture
    prompts, bound = _prompts_by_bound(trace, layer, stream, expert, tokens, weighted)
    ids = trace.prompts()["prompt_id"]
    found = USES.empty_table()
    for start in range(0, len(prompts), _AT_ONCE):
        if len(found) >= limit and found["weight"][limit - 1].as_py() >= bound[start]:
            break
        chosen = ids.take(pa.array(prompts[start : start + _AT_ONCE])).to_pylist()
        more = _uses_in(trace, chosen, layer, stream, expert, tokens, weighted, per_prompt)
        found = _sorted(pa.concat_tables([found, more]))[:limit]
        if not weighted and len(found) >= limit:
            break
    return found


def _prompts_by_bound(
    trace: TraceRows,
    layer: int,
    stream: str,
    expert: int,
    tokens: TokenFilter,
    weighted: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts that use the expert, in falling order of the largest weight (or number of uses) they can
    have."""
    rows = trace.rollups(layer, stream, sums=("count", "weight_max") if weighted else ("count",))
    wanted = tokens.rows(trace, rows)
    assert rows.count is not None
    count_R = _column(rows.count, rows, expert)
    wanted &= count_R > 0
    use_weight = weighted and rows.weight_max is not None
    bound_R = _column(rows.weight_max if use_weight else rows.count, rows, expert)
    bound = np.full(trace.num_prompts, -np.inf)
    np.maximum.at(bound, rows.prompt_R[wanted], bound_R[wanted])
    order = np.argsort(-bound, kind="stable")
    order = order[np.isfinite(bound[order])]
    return order, bound[order]


def _column(values: np.ndarray | None, rows, expert: int) -> np.ndarray:
    """(R,) the values of one expert."""
    assert values is not None
    if rows.cell_experts is None:
        return values[:, expert]
    out = np.zeros(len(rows.prompt_R), values.dtype)
    cells = np.flatnonzero(rows.cell_experts == expert)
    out[rows.cell_rows[cells]] = values[cells]
    return out


def _uses_in(
    trace: TraceRows,
    prompt_ids: list[str],
    layer: int,
    stream: str,
    expert: int,
    tokens: TokenFilter,
    weighted: bool,
    per_prompt: int,
) -> pa.Table:
    pieces = [USES.empty_table()]
    for batch in trace.iter_router(
        layer,
        stream,
        columns=("experts", "weights") if weighted else ("experts",),
        tokens=replace(tokens, where={"prompt_id": prompt_ids}),
    ):
        rows, slots = uses_of(batch.experts, batch.offsets, expert)
        first = rows * batch.experts.shape[1] if batch.offsets is None else batch.offsets[rows]
        slot = (slots - first).astype(np.int32)
        weight = batch.weights.reshape(-1)[slots].astype(np.float64) if weighted else -slot.astype(np.float64)
        uses = pa.table(
            {
                "key": pa.array(batch.prompt_N[rows], pa.int32()),
                "position": pa.array(batch.position_N[rows], pa.int32()),
                "weight": np.nan_to_num(weight),
                "slot": slot,
            },
            schema=USES,
        )
        pieces.append(_at_most(_sorted(uses), per_prompt))
    return pa.concat_tables(pieces)


def _sorted(uses: pa.Table) -> pa.Table:
    return uses.sort_by([("weight", "descending"), ("key", "ascending"), ("position", "ascending")])


def _at_most(uses: pa.Table, per_prompt: int) -> pa.Table:
    if per_prompt <= 0:
        return uses
    seen: dict[int, int] = {}
    kept = []
    for row, key in enumerate(uses["key"].to_pylist()):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= per_prompt:
            kept.append(row)
    return uses.take(pa.array(kept, pa.int64()))


def with_context(trace: TraceRows, uses: pa.Table, context: int) -> pa.Table:
    """The uses with prompt, token and the text around it."""
    rows = trace.row_of_key(np.asarray(uses["key"]))
    prompts = trace.prompts()
    ids = prompts["prompt_id"].take(pa.array(rows))
    keys = np.asarray(uses["key"])
    # Tokens of only the prompts that have a use: (N,), sorted by prompt and position, so bisection finds each use.
    token_N, prompt_N, position_N = _tokens(trace, np.unique(keys))
    before, token, after = [], [], []
    for key, position in zip(keys, np.asarray(uses["position"]), strict=True):
        start, end = np.searchsorted(prompt_N, [key, key + 1])
        at = int(start + np.searchsorted(position_N[start:end], position))
        first = max(int(start), at - context)
        text = token_N.slice(first, min(int(end), at + 1 + context) - first).to_pylist()
        before.append("".join(t or "" for t in text[: at - first]))
        token.append(text[at - first])
        after.append("".join(t or "" for t in text[at - first + 1 :]))
    weighted = "weights" in trace.manifest.capture
    return pa.table(
        {
            "prompt_id": ids,
            "language": prompts["language"].take(pa.array(rows)),
            "position": uses["position"],
            "token": pa.array(token, pa.string()),
            "before": pa.array(before, pa.string()),
            "after": pa.array(after, pa.string()),
            "weight": uses["weight"] if weighted else pa.nulls(len(uses), pa.float64()),
            "slot": uses["slot"],
        }
    )


def _tokens(trace: TraceRows, keys: np.ndarray) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Text, prompt key and position of all tokens of some prompts, in order."""
    empty = TOKENS_FILE.empty_table().select(["prompt", "position", "token"])

    def read(entry: PartEntry) -> pa.Table:
        return trace.read_part(entry, "tokens", keys, empty.column_names)

    table = pa.concat_tables(
        [empty, *trace.read_each(read, trace.parts_with(keys), threads=READERS)]
    ).combine_chunks()
    return table["token"], np.asarray(table["prompt"]), np.asarray(table["position"])
