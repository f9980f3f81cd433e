"""The rows of one prompt: a little of many row groups, one for each router.

Row groups are decoded in a few threads, and only the prompt's rows are kept: the memory of the rest serves the next
group, and fresh memory takes longer than decoding. What is the same in a whole row group, its router, comes from the
footer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..files.footers import RowGroup, row_groups
from ..files.layout import TOKENS_FILE, events_schema
from ..files.manifest import PartEntry
from ..files.tables import read_table
from ..files.threads import readers

if TYPE_CHECKING:
    from .trace_parts import TraceParts

_OF_ROUTER = ("layer", "stream")


def read_prompt(
    trace: TraceParts,
    entry: PartEntry,
    table: str,
    key: int,
    columns: Sequence[str],
    router: int | None,
) -> pa.Table:
    """Rows of `tokens` or `events` of the prompt with this key, remembered for the next time. Raises DamagedPart.

    Args:
        columns: `prompt` among them.
        router: number of a router: its events only.
    """

    def read() -> tuple[pa.Table]:
        groups = row_groups(trace.folder, entry, table, router, np.array([key]))
        if trace.is_far:
            pieces = _of_groups(trace, entry, table, key, columns, groups)
        else:
            pieces = readers().map(lambda group: _of_group(trace, entry, table, key, columns, group), groups)
        fields = TOKENS_FILE if table == "tokens" else events_schema(trace.routers, trace.manifest.capture)
        empty = pa.schema([fields.field(name) for name in columns]).empty_table()
        return (pa.concat_tables([empty, *pieces]).combine_chunks(),)

    return trace.memo.get(("prompt", entry.name, table, key, router, *columns), read)[0]


def _of_group(
    trace: TraceParts, entry: PartEntry, table: str, key: int, columns: Sequence[str], group: RowGroup
) -> pa.Table:
    read = [name for name in columns if table != "events" or name not in _OF_ROUTER]
    found = read_table(trace.folder, entry, table, read, groups=[group.number], until=key, threads=False)
    return _own_rows(trace, found, key, columns, group)


def _of_groups(
    trace: TraceParts,
    entry: PartEntry,
    table: str,
    key: int,
    columns: Sequence[str],
    groups: Sequence[RowGroup],
) -> list[pa.Table]:
    """The same of all of them, fetched together."""
    read = [name for name in columns if table != "events" or name not in _OF_ROUTER]
    numbers = [group.number for group in groups]
    found = read_table(trace.folder, entry, table, read, groups=numbers, threads=False)
    ends = np.cumsum([group.rows for group in groups]).tolist()
    return [
        _own_rows(trace, found.slice(end - group.rows, group.rows), key, columns, group)
        for group, end in zip(groups, ends, strict=True)
    ]


def _own_rows(
    trace: TraceParts, found: pa.Table, key: int, columns: Sequence[str], group: RowGroup
) -> pa.Table:
    """Rows of the prompt among those of a row group, with what is the same for all of the group."""
    first, end = np.searchsorted(np.asarray(found["prompt"]), [key, key + 1])
    rows = found.take(pa.array(np.arange(first, end)))  # a slice would hold on to the whole group
    if found.num_columns == len(columns):
        return rows
    spec = trace.routers[group.router]
    stream = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows), np.int8)), pa.array([spec.stream]))
    made = {"layer": pa.array(np.full(len(rows), spec.layer, np.int32)), "stream": stream}
    fields = events_schema(trace.routers, trace.manifest.capture)
    arrays = [made[name] if name in made else rows[name] for name in columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema([fields.field(name) for name in columns]))
