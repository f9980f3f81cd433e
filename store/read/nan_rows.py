"""Where a model's router logits held NaN: no view can show a number there, so people are told prompt and layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..files.layout import ROLLUPS_FILE

if TYPE_CHECKING:
    from .trace_rows import Trace

_COLUMNS = ["prompt", "layer", "stream", "nan_tokens"]


def nan_rows(trace: Trace) -> pa.Table:
    """See `Trace.nan_rows`. Only the parts whose entry in the manifest counts such events are read."""
    return trace.memo.get("nan_rows", lambda: (_nan_rows(trace),))[0]


def _nan_rows(trace: Trace) -> pa.Table:
    pieces = [trace.read_part(entry, "rollups", None, _COLUMNS) for entry in trace.parts if entry.nan_tokens]
    table = pa.concat_tables([ROLLUPS_FILE.empty_table().select(_COLUMNS), *pieces])
    table = table.set_column(2, "stream", table["stream"].cast(pa.string()))
    table = table.filter(pa.array(np.asarray(table["nan_tokens"]) > 0))
    # A prompt has a row for each phase and kind of token.
    table = table.group_by(_COLUMNS[:3], use_threads=False).aggregate([("nan_tokens", "sum")])
    order = [("prompt", "ascending"), ("layer", "ascending"), ("stream", "ascending")]
    return trace.with_ids(table.rename_columns([*_COLUMNS[:3], "tokens"]).sort_by(order))
