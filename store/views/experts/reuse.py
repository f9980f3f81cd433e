"""Whose experts a layer uses, where routers may choose experts of other layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view

_COLUMNS = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("owner", pa.int32()), ("experts", pa.int32())],
        *[("count", pa.int64()), ("use", pa.float64()), ("even", pa.float64()), ("tokens", pa.int64())],
    ]
)


@view("reuse")
def reuse(
    trace: TraceRows, *, layer: int | None = None, stream: str = "decoder", tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """How much each layer uses the experts of which layer (2510.17483).

    Returns:
        layer, stream, owner (the layer that owns the experts), experts (of that owner, that the layer's router may
        choose), count (of choices that go to them), use = count / all choices of the layer, even = experts / E (the use
        that even routing would give), tokens. A layer whose router has only experts of its own has one row.
    """
    rows: list[dict[str, Any]] = []
    for spec in trace.select_routers(layer, stream):
        sums = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        count_E = sums.count.sum(0)
        owner_E = np.array(spec.owners if spec.owners is not None else [spec.layer] * spec.num_experts)
        for owner in np.unique(owner_E):
            mine = owner_E == owner
            count = int(count_E[mine].sum())
            row = {
                "layer": spec.layer,
                "stream": spec.stream,
                "owner": int(owner),
                "experts": int(mine.sum()),
            }
            row |= {"count": count, "use": count / max(int(count_E.sum()), 1)}
            rows.append(row | {"even": float(mine.mean()), "tokens": int(sums.tokens.sum())})
    return with_notes(pa.Table.from_pylist(rows, schema=_COLUMNS), [tokens.note()])
