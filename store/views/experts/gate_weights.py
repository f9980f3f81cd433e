"""How large an expert's gate weights are: a histogram, by a tag."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import StoreError
from ...notes import with_notes
from ...read.batches import uses_of
from ...read.selection import group_column
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view
from .contexts import check_expert

_OWN = [
    *[("low", pa.float64()), ("high", pa.float64()), ("count", pa.int64()), ("share", pa.float64())],
    *[("chosen", pa.int64()), ("tokens", pa.int64()), ("mean", pa.float64())],
]


@view("gate-weights", needs=("events",))
def gate_weights(
    trace: TraceRows,
    *,
    layer: int,
    expert: int,
    by: str | None = None,
    stream: str = "decoder",
    bins: int = 10,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Distribution of an expert's gate weights, by a tag of the prompts.

    Args:
        by: a column of the prompts or a tag; prompts without a value are left out.
        bins: of equal width, from 0 to 1, or to the largest weight where that is above 1.
    Returns:
        [by], low, high (of the bin; the last one holds its upper end too), count (tokens that choose the expert with
        such a weight), share = count / tokens, chosen (tokens of the value that choose the expert), tokens (of the
        value), mean (weight over the tokens that choose it; null where none does).
    Raises:
        StoreError: the trace has no gate weights.
    """
    check_expert(trace, layer, stream, expert)
    if "weights" not in trace.manifest.capture:
        raise StoreError("this trace has no gate weights")
    groups = trace.groups(by)
    group_N, weight_N, tokens_G = _gather(
        trace, (layer, stream, expert), groups.group_P, len(groups.names), tokens
    )
    edges = np.linspace(0, max(1.0, float(weight_N.max(initial=0))), bins + 1)
    shown = None if by is None else group_column(by, [name for name, _ in _OWN])
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(groups.names):
        if not tokens_G[number] or (by is not None and name is None):
            continue
        mine = weight_N[group_N == number]
        about: dict[str, Any] = {"chosen": len(mine), "tokens": int(tokens_G[number])}
        about["mean"] = float(mine.mean()) if len(mine) else None
        about |= {} if shown is None else {shown: name}
        for low, high, count in zip(edges[:-1], edges[1:], np.histogram(mine, edges)[0], strict=True):
            share = float(count) / about["tokens"]
            rows.append(about | {"low": float(low), "high": float(high), "count": int(count), "share": share})
    schema = pa.schema([*([] if shown is None else [(shown, pa.string())]), *_OWN])
    return with_notes(pa.Table.from_pylist(rows, schema=schema), [tokens.note()])


def _gather(
    trace: TraceRows, cell: tuple[int, str, int], group_P: np.ndarray, groups: int, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group and weight of each token that chooses the expert, and how many tokens each group has."""
    layer, stream, expert = cell
    found_groups, found_weights, tokens_G = [], [], np.zeros(groups, np.int64)
    for batch in trace.iter_router(layer, stream, columns=("experts", "weights"), tokens=tokens):
        group_N = group_P[batch.prompt_index]
        tokens_G += np.bincount(group_N, minlength=groups)
        rows, slots = uses_of(batch.experts, batch.offsets, expert)
        found_groups.append(group_N[rows])
        found_weights.append(batch.weights.reshape(-1)[slots])
    empty = [np.zeros(0)]
    return np.concatenate([*found_groups, *empty]), np.concatenate([*found_weights, *empty]), tokens_G
