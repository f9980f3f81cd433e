"""How a part lies on disk: columns, encodings and row groups of its four Parquet files.

Rows of `events` and `rollups` are sorted by (router, prompt, position), rows of `tokens` by (prompt,
position). A row group holds whole prompts of one router, about `ROWS_PER_GROUP` rows (`TOKENS_PER_GROUP` of
`tokens`). The footer's key-value metadata has an index of the row groups (router, first and last prompt), so a
reader takes one prompt, or one layer, without touching the rest. Why these encodings: docs/performance.md and
benchmarks/store_layout.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..schema import CAPTURES, PROMPTS, RouterSpec

ROWS_PER_GROUP = 16384
TOKENS_PER_GROUP = 4096
"""Tokens are read a prompt at a time, and are few beside the events: small groups cost little there."""
INDEX_KEY = b"moescope.row_groups"
_PAGE_BYTES = 1 << 23

DENSE_EXPERTS = 8192
"""Rollups of routers with more experts than this are stored sparsely."""

_KEY = pa.field("prompt", pa.int32(), nullable=False)
_STREAM = pa.dictionary(pa.int8(), pa.string())

PROMPTS_FILE = pa.schema([_KEY, *PROMPTS])

TOKENS_FILE = pa.schema(
    [
        _KEY,
        pa.field("position", pa.int32(), nullable=False),
        pa.field("token_id", pa.int32()),
        pa.field("token", pa.string()),
        pa.field("phase", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("special", pa.bool_(), nullable=False),
        pa.field("completion", pa.bool_(), nullable=False),
    ]
)


def _list(value: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", value, nullable=False))


def expert_type(routers: Sequence[RouterSpec]) -> pa.DataType:
    """The narrowest unsigned integer that holds every expert id of a trace."""
    most = max((spec.num_experts for spec in routers), default=1)
    return pa.uint8() if most <= 256 else pa.uint16() if most <= 65536 else pa.uint32()


EVENT_SCALARS = ("entropy", "similarity")
"""Captures with one number an event; the others have a list."""


def events_schema(routers: Sequence[RouterSpec], capture: Iterable[str]) -> pa.Schema:
    """Columns of an events file: keys, `experts`, and what was captured, in the order of `CAPTURES`."""
    columns = [
        _KEY,
        pa.field("position", pa.int32(), nullable=False),
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("stream", _STREAM, nullable=False),
        pa.field("experts", _list(expert_type(routers)), nullable=False),
    ]
    wanted = [name for name in CAPTURES if name in set(capture) and name != "ids"]
    columns += [
        pa.field(name, pa.float32() if name in EVENT_SCALARS else _list(pa.float32())) for name in wanted
    ]
    return pa.schema(columns)


ROLLUPS_FILE = pa.schema(
    [
        _KEY,
        pa.field("layer", pa.int32(), nullable=False),
        pa.field("stream", _STREAM, nullable=False),
        pa.field("phase", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("special", pa.bool_(), nullable=False),
        pa.field("completion", pa.bool_(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("experts", _list(pa.int32())),
        pa.field("count", _list(pa.uint32()), nullable=False),
        pa.field("weight_sum", _list(pa.float32())),
        pa.field("weight_max", _list(pa.float32())),
        pa.field("probability_sum", _list(pa.float32())),
        pa.field("entropy_sum", pa.float64()),
        pa.field("nan_tokens", pa.int64(), nullable=False),
    ]
)

GROUPS_FILE = pa.schema(
    [
        pa.field("cell", pa.int32(), nullable=False),
        *[
            ROLLUPS_FILE.field(name)
            for name in ("layer", "stream", "phase", "special", "completion", "tokens")
        ],
        pa.field("count", _list(pa.uint64()), nullable=False),
        pa.field("weight_sum", _list(pa.float64())),
        pa.field("probability_sum", _list(pa.float64())),
        *[ROLLUPS_FILE.field(name) for name in ("entropy_sum", "nan_tokens")],
    ]
)
"""Sums of rollups over the prompts of a group, wide enough for any number of them."""


@dataclass
class GroupIndex:
    """Which row group holds what: one entry a row group, in file order."""

    router: list[int] = field(default_factory=list)
    """Number of the router in the manifest's list; -1 in files without routers."""
    first: list[int] = field(default_factory=list)
    """Key of its first prompt; `last` of its last."""
    last: list[int] = field(default_factory=list)

    def add(self, router: int, first: int, last: int) -> None:
        self.router.append(router)
        self.first.append(first)
        self.last.append(last)

    def select(self, router: int | None = None, prompts: np.ndarray | None = None) -> list[int]:
        """Row groups that can hold rows of a router and of any of the given prompt keys (sorted)."""
        wanted = np.ones(len(self.router), bool)
        if router is not None:
            wanted &= np.asarray(self.router) == router
        if prompts is not None:
            below = np.searchsorted(prompts, np.asarray(self.first), side="left")
            upto = np.searchsorted(prompts, np.asarray(self.last), side="right")
            wanted &= upto > below
        return np.flatnonzero(wanted).tolist()

    def to_bytes(self) -> bytes:
        return json.dumps({"router": self.router, "first": self.first, "last": self.last}).encode()

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> GroupIndex:
        """Raises ValueError or KeyError where the file was not written by us."""
        data = json.loads((metadata or {})[INDEX_KEY])
        return cls(data["router"], data["first"], data["last"])


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """Parquet options by column.

    Byte-stream split puts expert ids and floats byte by byte, so that zstd spends their entropy and no more;
    DuckDB reads it for 4-byte types only, hence float32. Rising keys are deltas, everything else a
    dictionary.
    """
    dictionary, encoding, level = [], {}, {}
    for column in schema:
        kind, path = column.type, column.name
        while pa.types.is_list(kind):
            kind, path = kind.value_type, f"{path}.list.element"
        is_list = path != column.name
        level[path] = 1 if pa.types.is_floating(kind) else 3
        if column.name in ("prompt", "position"):
            encoding[path] = "DELTA_BINARY_PACKED"
        elif pa.types.is_floating(kind) or (is_list and pa.types.is_integer(kind)):
            encoding[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_map(kind):
            level.pop(path)
        else:
            dictionary.append(path)
    return {"use_dictionary": dictionary, "column_encoding": encoding, "compression_level": level}


class PartFile:
    """One Parquet file, put together in memory: parts are small, and a file is on disk whole or not at
    all."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self.rows = 0
        self._index = GroupIndex()
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            data_page_size=_PAGE_BYTES,
            write_page_checksum=True,
            **encodings(schema),
        )

    def add(self, table: pa.Table, *, router: int, first: int, last: int) -> None:
        """Append one row group."""
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._index.add(router, first, last)
            self.rows += table.num_rows

    def close(self) -> memoryview:
        """The file's bytes."""
        self._writer.add_key_value_metadata({INDEX_KEY: self._index.to_bytes()})
        self._writer.close()
        return memoryview(self._sink.getvalue())


def footer_of(data: memoryview) -> memoryview:
    """The footer of a Parquet file, without its length and magic number.

    Raises:
        ValueError: these bytes do not end as a Parquet file does.
    """
    if data.nbytes < 12 or bytes(data[-4:]) != b"PAR1":
        raise ValueError("it does not end as a Parquet file does")
    length = int.from_bytes(data[-8:-4], "little")
    if length > data.nbytes - 8:
        raise ValueError("its footer is longer than the file")
    return data[data.nbytes - 8 - length : data.nbytes - 8]


def prompt_chunks(prompt_N: np.ndarray, rows: int = ROWS_PER_GROUP) -> list[slice]:
    """Slices of sorted rows that hold whole prompts and about `rows` rows each."""
    if len(prompt_N) == 0:
        return []
    starts = np.flatnonzero(np.r_[True, prompt_N[1:] != prompt_N[:-1]])
    chosen = [0]
    for start in starts.tolist():
        if start - chosen[-1] >= rows:
            chosen.append(start)
    return [slice(a, b) for a, b in zip(chosen, [*chosen[1:], len(prompt_N)], strict=True)]
