"""From arrays to the four Parquet files of a part."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ..errors import BadPart
from ..files.layout import (
    PROMPTS_FILE,
    ROLLUPS_FILE,
    ROWS_PER_GROUP,
    TOKENS_FILE,
    TOKENS_PER_GROUP,
    PartFile,
    events_schema,
    expert_type,
    footer_of,
    prompt_chunks,
)
from ..files.manifest import TABLES, FileEntry, PartEntry
from ..schema import PROMPTS, Part, RouterCounts, RouterEvents, RouterSpec, RouterSums
from .conform import conform
from .event_check import EventCheck
from .event_columns import EventColumns
from .rollups import TokenClasses, counts_rollup, router_rollup
from .token_rows import checked_tokens

PerRouter = TypeVar("PerRouter", RouterEvents, RouterSums, RouterCounts)


class PartBuilder:
    """Turns parts into files; checks them on the way, so that nothing contradictory is ever committed."""

    def __init__(self, routers: Sequence[RouterSpec], capture: Sequence[str], weight_type: str):
        self.routers = list(routers)
        self._number = {spec.key: i for i, spec in enumerate(self.routers)}
        self._schema = events_schema(routers, capture)
        self._columns = EventColumns(self._schema)
        ids = expert_type(routers).to_pandas_dtype()
        self._check = EventCheck(self._schema.names, ids, np.dtype(weight_type))

    def build(
        self, part: Part, name: str, first_prompt: int, put: Callable[[str, memoryview], None]
    ) -> PartEntry:
        """Hands over the files of a part and returns its entry in the manifest.

        Args:
            first_prompt: key of the part's first prompt.
            put: called with the table and the bytes of each file once it is whole, while others are encoded.
        Raises:
            BadPart: the part contradicts itself or the trace; the message says where. Nothing was put then.
        """
        prompts = conform(part.prompts, PROMPTS, "prompts")
        tokens, classes = checked_tokens(part.tokens, prompts.num_rows)
        events, entries = PartFile(self._schema), dict[str, FileEntry]()

        def finish(table: str, file: PartFile) -> None:
            data = file.close()
            put(table, data)
            entries[table] = file_entry(file.rows, data)

        with ThreadPoolExecutor(1) as beside:  # events are encoded while everything else is
            encode = partial(beside.submit, self._columns.add, events)
            rollups, nan_tokens, encoded = self._routed(part, prompts.num_rows, classes, first_prompt, encode)
            finish("rollups", rollups)
            prompt_T = np.asarray(tokens["prompt"])
            finish("tokens", _whole(TOKENS_FILE, tokens, prompt_T, first_prompt, TOKENS_PER_GROUP))
            finish("prompts", _whole(PROMPTS_FILE, prompts, np.arange(prompts.num_rows), first_prompt))
            for done in encoded:
                done.result()
        finish("events", events)
        return PartEntry(
            name=name,
            first_prompt=first_prompt,
            prompts=prompts.num_rows,
            tokens=tokens.num_rows,
            events=events.rows,
            nan_tokens=nan_tokens,
            languages=_tally(prompts["language"]),
            files={table: entries[table] for table in TABLES},
        )

    def _routed(
        self,
        part: Part,
        prompts: int,
        classes: TokenClasses,
        first_prompt: int,
        encode: Callable[..., Future[None]],
    ) -> tuple[PartFile, int, list[Future[None]]]:
        """Has the events of every router encoded, and sums them up: rollups, events with NaN, and what is still
        being encoded."""
        events_of, sums_of = self._by_router(part.events), self._by_router(part.sums)
        file, nan_tokens, encoded, rows = PartFile(ROLLUPS_FILE), 0, [], None
        for number, spec in enumerate(self.routers):
            if number not in events_of:
                continue
            router = events_of[number]
            flat = self._check.flat(spec, router, prompts)
            if rows is None or not rows.are_those_of(router):
                rows = classes.rows_of(router)
            encoded.append(encode(number, router, flat, first_prompt))
            rollup = router_rollup(spec, flat, rows, sums_of.get(number))
            nan_tokens += int(np.asarray(rollup["nan_tokens"]).sum())
            _add_keyed(file, number, rollup, first_prompt)
        for number, counts in self._by_router(part.counts).items():
            if number in events_of:
                raise BadPart(f"layer {counts.layer} ({counts.stream}): both events and counts")
            _add_keyed(file, number, counts_rollup(self.routers[number], counts, prompts), first_prompt)
        return file, nan_tokens, encoded

    def _by_router(self, rows: Sequence[PerRouter]) -> dict[int, PerRouter]:
        found: dict[int, PerRouter] = {}
        for router in rows:
            key = router.key
            if key not in self._number:
                raise BadPart(f"{key}: the trace has no such router")
            if self._number[key] in found:
                raise BadPart(f"{key}: handed in twice in one part")
            found[self._number[key]] = router
        return found


def _add_keyed(
    file: PartFile, router: int, table: pa.Table, first_prompt: int, rows_per_group: int = ROWS_PER_GROUP
) -> None:
    """Append rows sorted by `prompt`, turning row numbers within the part into keys of the trace."""
    prompt = np.asarray(table["prompt"])
    for rows in prompt_chunks(prompt, rows_per_group):
        piece = table.slice(rows.start, rows.stop - rows.start)
        keys = pa.array(prompt[rows] + np.int32(first_prompt), pa.int32())
        piece = piece.set_column(0, file.schema.field("prompt"), keys).cast(file.schema)
        file.add(piece, router=router, first=keys[0].as_py(), last=keys[-1].as_py())


def _whole(
    schema: pa.Schema,
    table: pa.Table,
    prompt: np.ndarray,
    first_prompt: int,
    rows_per_group: int = ROWS_PER_GROUP,
) -> PartFile:
    file = PartFile(schema)
    keys = pa.array(prompt.astype(np.int32))
    if "prompt" in table.column_names:
        table = table.set_column(0, "prompt", keys)
    else:
        table = table.add_column(0, "prompt", keys)
    _add_keyed(file, -1, table, first_prompt, rows_per_group)
    return file


def file_entry(rows: int, data: memoryview) -> FileEntry:
    footer = footer_of(data)
    return FileEntry(
        rows=rows,
        bytes=data.nbytes,
        sha256=hashlib.sha256(data).hexdigest(),
        footer_crc32=zlib.crc32(footer),
    )


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.drop_null().value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}
