"""Passes over all events of a router, as arrays that kernels take without a copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from .errors import UnknownColumn
from .files import read_table
from .rollups import PHASES, token_key
from .selection import Where

if TYPE_CHECKING:
    from .manifest import PartEntry
    from .reader import Trace

READERS = 2


@dataclass(frozen=True)
class EventBatch:
    """Events of one router in one part; N token rows sorted by (prompt, position)."""

    prompt_N: np.ndarray
    """(N,) int32 keys, rising; `prompt_index` gives the rows of `Trace.prompts()`."""
    position_N: np.ndarray
    """(N,) int32."""
    prompt_index: np.ndarray
    """(N,) int64: row of the prompt in `Trace.prompts()`."""
    experts: np.ndarray
    """(N, K) unsigned, in descending gate weight: a view of the Arrow buffer. Where k varies, flat (S,)."""
    offsets: np.ndarray | None
    """(N + 1,) where k varies: token i chose experts[offsets[i]:offsets[i + 1]]; else None."""
    columns: dict[str, np.ndarray]
    """The other columns that were asked for: `weights`, `probability`, `output_norm` in the shape of
    `experts`, `logits` (N, E), `entropy` and `similarity` (N,)."""

    @property
    def weights(self) -> np.ndarray:
        return self.columns["weights"]

    def padded(self) -> np.ndarray:
        """(N, K) int32 experts, -1 in empty slots where k varies; `experts` itself where it does not."""
        if self.offsets is None:
            return self.experts
        lengths = np.diff(self.offsets)
        out = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int32)
        out[np.arange(out.shape[1]) < lengths[:, None]] = self.experts
        return out


def iter_router(
    trace: Trace,
    layer: int,
    stream: str = "decoder",
    *,
    columns: Sequence[str] = ("experts",),
    where: Where | None = None,
    special: bool = True,
    phase: str | None = None,
    completion: bool | None = None,
) -> Iterator[EventBatch]:
    """See `Trace.iter_router`."""
    spec = trace.router(layer, stream)
    router = trace.routers.index(spec)
    extra = [name for name in columns if name != "experts"]
    missing = [name for name in extra if name not in trace.manifest.capture]
    if missing:
        raise UnknownColumn(f"this trace did not capture {', '.join(missing)}")
    keys = trace.wanted_keys(where=where)
    by_class = not special or phase is not None or completion is not None
    wanted = ["prompt", "position", "experts", *extra]

    def load(entry: PartEntry) -> EventBatch:
        table = read_table(trace.folder, entry, "events", wanted, router=router, prompts=keys, threads=False)
        prompt, position = np.asarray(table["prompt"]), np.asarray(table["position"])
        keep = None if keys is None else np.isin(prompt, keys, kind="sort")
        if by_class:
            of_class = _of_class(trace, entry, prompt, position, special, phase, completion)
            keep = of_class if keep is None else keep & of_class
        if keep is not None and not keep.all():
            table = table.filter(pa.array(keep))
        return _batch(trace, table.combine_chunks(), spec.num_experts)

    yield from _read_ahead(trace.parts_with(keys), load)


def _read_ahead(entries: Sequence[PartEntry], load) -> Iterator[EventBatch]:
    waiting: deque[Future[EventBatch]] = deque()
    left = iter(entries)
    with ThreadPoolExecutor(READERS) as pool:
        try:
            for entry in left:
                waiting.append(pool.submit(load, entry))
                if len(waiting) > READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _of_class(
    trace: Trace,
    entry: PartEntry,
    prompt: np.ndarray,
    position: np.ndarray,
    special: bool,
    phase: str | None,
    completion: bool | None,
) -> np.ndarray:
    """(N,) bool: events whose token is of the wanted kind."""
    names = ["prompt", "position", "phase", "special", "completion"]
    tokens = read_table(trace.folder, entry, "tokens", names, threads=False)
    good = np.ones(tokens.num_rows, bool)
    if not special:
        good &= ~np.asarray(tokens["special"])
    if phase is not None:
        if phase not in PHASES:
            raise UnknownColumn(f"phase is {phase!r}; it is one of {', '.join(PHASES)}")
        good &= np.asarray(tokens["phase"].cast(pa.string())) == phase
    if completion is not None:
        good &= np.asarray(tokens["completion"]) == completion
    key_T = token_key(np.asarray(tokens["prompt"]), np.asarray(tokens["position"]))
    return good[np.searchsorted(key_T, token_key(prompt, position))]


def _batch(trace: Trace, table: pa.Table, num_experts: int) -> EventBatch:
    prompt = np.asarray(table["prompt"])
    offsets, experts = _list_arrays(table["experts"])
    rows = len(prompt)
    k = len(experts) // rows if rows else 1
    regular = bool(k * rows == len(experts) and (offsets == np.arange(rows + 1) * k).all())
    shape = (rows, k) if regular and k else None
    columns = {}
    for name in table.column_names[3:]:
        column = table[name]
        if not pa.types.is_list(column.type):
            columns[name] = np.asarray(column)
            continue
        if column.null_count:
            raise UnknownColumn(f"some events have no {name}: the router or the import did not give any")
        values = _list_arrays(column)[1]
        columns[name] = values.reshape(rows, num_experts) if name == "logits" else values
        if name != "logits" and shape is not None:
            columns[name] = values.reshape(shape)
    return EventBatch(
        prompt_N=prompt,
        position_N=np.asarray(table["position"]),
        prompt_index=trace.row_of_key(prompt),
        experts=experts if shape is None else experts.reshape(shape),
        offsets=offsets if shape is None else None,
        columns=columns,
    )


def _list_arrays(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from 0 and values of a list column."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    offsets = np.asarray(array.offsets)
    return offsets - offsets[0] if len(offsets) and offsets[0] else offsets, np.asarray(array.flatten())
