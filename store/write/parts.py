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

from ..arrow import pc
from ..errors import BadPart
from ..files.layout import (
    EVENT_SCALARS,
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
from ..schema import PROMPTS, TOKENS, Part, RouterCounts, RouterEvents, RouterSpec, RouterSums
from .rollups import PHASES, TokenClasses, counts_rollup, router_rollup, token_key

PerRouter = TypeVar("PerRouter", RouterEvents, RouterSums, RouterCounts)


class PartBuilder:
    """Turns parts into files; checks them on the way, so that nothing contradictory is ever committed."""

    def __init__(self, routers: Sequence[RouterSpec], capture: Sequence[str], weight_type: str):
        self.routers = list(routers)
        self._number = {spec.key: i for i, spec in enumerate(self.routers)}
        self._schema = events_schema(routers, capture)
        self._expert_type = expert_type(routers).to_pandas_dtype()
        self._weight_type = np.dtype(weight_type)

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
        tokens, classes = self._tokens(part.tokens, prompts.num_rows)
        events, entries = PartFile(self._schema), dict[str, FileEntry]()

        def finish(table: str, file: PartFile) -> None:
            data = file.close()
            put(table, data)
            entries[table] = file_entry(file.rows, data)

        with ThreadPoolExecutor(1) as beside:  # events are encoded while everything else is
            encode = partial(beside.submit, self._add_events, events)
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
            router = self._checked(spec, events_of[number], prompts)
            if rows is None or not rows.are_those_of(router):
                rows = classes.rows_of(router)
            flat = self._flat(spec, router)
            self._check_extras(router, len(flat[0]))
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

    def _tokens(self, table: pa.Table, prompts: int) -> tuple[pa.Table, TokenClasses]:
        tokens = conform(table, TOKENS, "tokens")
        tokens = tokens.set_column(4, "phase", _coded_phase(tokens["phase"]))
        for name, default in (("special", False), ("completion", False)):
            tokens = tokens.set_column(
                tokens.schema.get_field_index(name), name, tokens[name].fill_null(default)
            )
        prompt_T, position_T = (np.asarray(tokens[name]) for name in ("prompt", "position"))
        key_T = token_key(prompt_T, position_T)
        if len(key_T) and (prompt_T.min() < 0 or prompt_T.max() >= prompts or position_T.min() < 0):
            raise BadPart("tokens: a prompt number or position is out of range")
        if not (np.diff(key_T) > 0).all():
            order = np.argsort(key_T, kind="stable")
            if not (np.diff(key_T[order]) > 0).all():
                raise BadPart("tokens: one position occurs twice in a prompt")
            tokens = tokens.take(order)
            prompt_T, position_T = prompt_T[order], position_T[order]
        phase = tokens["phase"].combine_chunks().indices
        flags = [np.asarray(phase), *(np.asarray(tokens[name]) for name in ("special", "completion"))]
        return tokens, TokenClasses.of(prompt_T, position_T, np.stack(flags, axis=1).astype(np.int64))

    def _checked(self, spec: RouterSpec, events: RouterEvents, prompts: int) -> RouterEvents:
        where = f"layer {spec.layer} ({spec.stream})"
        rows = len(events.prompt)
        if len(events.position) != rows:
            raise BadPart(f"{where}: {rows} prompts but {len(events.position)} positions")
        if rows and (events.prompt.min() < 0 or events.prompt.max() >= prompts):
            raise BadPart(f"{where}: an event names a prompt that the part does not have")
        if events.offsets is None and (events.experts.ndim != 2 or len(events.experts) != rows):
            raise BadPart(f"{where}: experts have shape {events.experts.shape}, expected ({rows}, k)")
        if events.weights is not None and events.weights.shape != events.experts.shape:
            raise BadPart(f"{where}: weights have shape {events.weights.shape}, not that of the experts")
        return events

    def _flat(
        self, spec: RouterSpec, events: RouterEvents
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Experts and weights end to end with offsets; empty slots (negative ids) are left out."""
        experts = events.experts
        rows = len(events.prompt)
        offsets = events.offsets
        if offsets is None:
            offsets = np.arange(rows + 1, dtype=np.int64) * experts.shape[1]
        experts_S = experts.reshape(-1)
        weights_S = None if events.weights is None else self._rounded(events.weights.reshape(-1))
        where = f"layer {spec.layer} ({spec.stream})"
        if len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != len(experts_S):
            raise BadPart(f"{where}: offsets do not span the experts")
        if (np.diff(offsets) < 0).any():
            raise BadPart(f"{where}: offsets fall")
        if len(experts_S) and int(experts_S.max()) >= spec.num_experts:
            raise BadPart(f"{where}: expert {int(experts_S.max())} of {spec.num_experts}")
        if len(experts_S) and int(experts_S.min()) < 0:
            kept = experts_S >= 0
            offsets = np.r_[0, np.cumsum(kept)][offsets]
            experts_S = experts_S[kept]
            weights_S = None if weights_S is None else weights_S[kept]
        return experts_S.astype(self._expert_type, copy=False), weights_S, offsets

    def _check_extras(self, events: RouterEvents, slots: int) -> None:
        for name, values in events.extras.items():
            if name not in self._schema.names:
                continue
            by_event = name in (*EVENT_SCALARS, "logits")
            found = len(values) if by_event else values.size
            wanted, what = (len(events.position), "events") if by_event else (slots, "chosen experts")
            if found != wanted:
                raise BadPart(f"{name} has {found} values for {wanted} {what}")

    def _rounded(self, weights: np.ndarray) -> np.ndarray:
        """Gate weights as they are stored: rounded to the trace's weight type, kept as float32."""
        if weights.dtype != self._weight_type and self._weight_type == np.float16:
            limit = np.finfo(np.float16).max
            if np.max(np.abs(weights), initial=0, where=np.isfinite(weights)) > limit:
                raise BadPart(f"a gate weight is beyond {limit}: store this trace with weight_type='float32'")
            weights = weights.astype(np.float16)
        return weights.astype(np.float32, copy=False)

    def _add_events(
        self,
        file: PartFile,
        number: int,
        events: RouterEvents,
        flat: tuple[np.ndarray, np.ndarray | None, np.ndarray],
        first_prompt: int,
    ) -> None:
        for rows in prompt_chunks(events.prompt):
            columns = self._columns(events, flat, rows, first_prompt)
            arrays = [
                columns[f.name] if f.name in columns else pa.nulls(rows.stop - rows.start, f.type)
                for f in self._schema
            ]
            first, last = (int(events.prompt[i]) + first_prompt for i in (rows.start, rows.stop - 1))
            table = pa.Table.from_arrays(arrays, schema=self._schema)
            file.add(table, router=number, first=first, last=last)

    def _columns(
        self,
        events: RouterEvents,
        flat: tuple[np.ndarray, np.ndarray | None, np.ndarray],
        rows: slice,
        first_prompt: int,
    ) -> dict[str, pa.Array]:
        experts_S, weights_S, offsets = flat
        size = rows.stop - rows.start
        stream = pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int8)), pa.array([events.stream]))
        chosen = slice(int(offsets[rows.start]), int(offsets[rows.stop]))
        own_offsets = pa.array(offsets[rows.start : rows.stop + 1] - offsets[rows.start], pa.int32())
        columns: dict[str, pa.Array] = {
            "prompt": pa.array(events.prompt[rows] + np.int32(first_prompt), pa.int32()),
            "position": pa.array(events.position[rows], pa.int32()),
            "layer": pa.array(np.full(size, events.layer, np.int32)),
            "stream": stream,
            "experts": self._list("experts", experts_S[chosen], own_offsets),
        }
        if weights_S is not None and "weights" in self._schema.names:
            columns["weights"] = self._list("weights", weights_S[chosen], own_offsets)
        for name, values in events.extras.items():
            if name not in self._schema.names:
                continue
            columns[name] = self._extra(name, values, rows, chosen, own_offsets)
        return columns

    def _extra(
        self, name: str, values: np.ndarray, rows: slice, chosen: slice, offsets: pa.Array
    ) -> pa.Array:
        if name in EVENT_SCALARS:
            return pa.array(np.asarray(values[rows], np.float32))
        if name == "logits":
            logits_NE = np.ascontiguousarray(values[rows], np.float32)
            own = np.arange(len(logits_NE) + 1, dtype=np.int32) * logits_NE.shape[1]
            return self._list(name, logits_NE.reshape(-1), pa.array(own))
        return self._list(name, np.asarray(values.reshape(-1)[chosen], np.float32), offsets)

    def _list(self, name: str, values: np.ndarray, offsets: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values), type=self._schema.field(name).type)


def conform(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The table with exactly the columns of a schema; missing ones are null.

    Raises:
        BadPart: a column that the schema does not have, or values of another type.
    """
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        raise BadPart(f"{what}: unknown column {', '.join(unknown)}")
    arrays = []
    for column in schema:
        if column.name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, column.type))
            continue
        try:
            arrays.append(table[column.name].cast(column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise BadPart(f"{what}: column {column.name}: {error}") from error
    return pa.Table.from_arrays(arrays, schema=schema)


def _coded_phase(phase: pa.ChunkedArray) -> pa.Array:
    """Phases as a dictionary whose codes are those of `RouterSums.phase`; null is unknown."""
    codes = pc.index_in(phase.fill_null(PHASES[-1]), value_set=pa.array(PHASES))
    if codes.null_count:
        raise BadPart(f"tokens: a phase is not one of {', '.join(PHASES)}")
    codes = codes.cast(pa.int8())
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    return pa.DictionaryArray.from_arrays(codes, pa.array(PHASES))


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
