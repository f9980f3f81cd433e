"""Passes over all events of a router, as arrays that kernels take without a copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from .errors import UnknownColumn
from .files import read_table
from .rollups import PHASES, token_key
from .selection import Where
from .threads import READERS, readers

if TYPE_CHECKING:
    from .manifest import PartEntry
    from .reader import Trace

_FEW_PROMPTS = 64
"""What is read for so few prompts is kept: the same neighbours may be asked for next."""

Made = TypeVar("Made")


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

    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    """(N,) columns of the tokens that were asked for; `token_id` is -1 where there is none."""

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


@dataclass(frozen=True)
class _Pass:
    """What to read of each part, and which of its tokens."""

    trace: Trace
    router: int
    columns: tuple[str, ...]
    token_columns: tuple[str, ...]
    keys: np.ndarray | None
    special: bool
    phase: str | None
    completion: bool | None

    @property
    def by_class(self) -> bool:
        return not self.special or self.phase is not None or self.completion is not None

    def load(self, entry: PartEntry) -> EventBatch:
        wanted = ["prompt", "position", "experts", *self.columns]
        table = self._read(entry, "events", wanted, self.router)
        prompt, position = np.asarray(table["prompt"]), np.asarray(table["position"])
        keep = None if self.keys is None else np.isin(prompt, self.keys, kind="sort")
        tokens = None
        if self.by_class or self.token_columns:
            tokens = self._tokens(entry, prompt, position)
        if tokens is not None and self.by_class:
            of_class = self._of_class(tokens)
            keep = of_class if keep is None else keep & of_class
        if keep is not None and not keep.all():
            table = table.filter(pa.array(keep))
            tokens = None if tokens is None else tokens.filter(pa.array(keep))
        batch = _batch(self.trace, table.combine_chunks(), self.trace.routers[self.router].num_experts)
        for name in self.token_columns:
            assert tokens is not None
            batch.tokens[name] = _token_column(tokens, name)
        return batch

    def _read(self, entry: PartEntry, table: str, columns: list[str], router: int | None) -> pa.Table:
        keep = self.keys is None or len(self.keys) <= _FEW_PROMPTS
        folder = self.trace.folder
        return read_table(
            folder, entry, table, columns, router=router, prompts=self.keys, threads=False, keep=keep
        )

    def _tokens(self, entry: PartEntry, prompt: np.ndarray, position: np.ndarray) -> pa.Table:
        """Rows of the tokens of the events, in their order."""
        names = list(dict.fromkeys(["prompt", "position", *self.token_columns]))
        names += [name for name in ("phase", "special", "completion") if self.by_class and name not in names]
        tokens = self._read(entry, "tokens", names, None)
        key_T = token_key(np.asarray(tokens["prompt"]), np.asarray(tokens["position"]))
        key_N = token_key(prompt, position)
        if len(key_T) == len(key_N) and np.array_equal(key_T, key_N):
            return tokens
        return tokens.take(pa.array(np.searchsorted(key_T, key_N)))

    def _of_class(self, tokens: pa.Table) -> np.ndarray:
        """(N,) bool: events whose token is of the wanted kind."""
        good = np.ones(tokens.num_rows, bool)
        if not self.special:
            good &= ~np.asarray(tokens["special"])
        if self.phase is not None:
            good &= np.asarray(tokens["phase"].cast(pa.string())) == self.phase
        if self.completion is not None:
            good &= np.asarray(tokens["completion"]) == self.completion
        return good


def map_router(
    trace: Trace,
    work: Callable[[EventBatch], Made],
    layer: int,
    stream: str = "decoder",
    *,
    columns: Sequence[str] = ("experts",),
    token_columns: Sequence[str] = (),
    where: Where | None = None,
    special: bool = True,
    phase: str | None = None,
    completion: bool | None = None,
) -> Iterator[Made]:
    """`work` of each batch of `Trace.iter_router`, in order, done in the threads that read: for kernels that take
    longer than reading."""
    extra = [name for name in columns if name != "experts"]
    missing = [name for name in extra if name not in trace.manifest.capture]
    if missing:
        raise UnknownColumn(f"this trace did not capture {', '.join(missing)}")
    if phase is not None and phase not in PHASES:
        raise UnknownColumn(f"phase is {phase!r}; it is one of {', '.join(PHASES)}")
    keys = trace.wanted_keys(where=where)
    plan = _Pass(
        trace=trace,
        router=trace.routers.index(trace.router(layer, stream)),
        columns=tuple(extra),
        token_columns=tuple(token_columns),
        keys=keys,
        special=special,
        phase=phase,
        completion=completion,
    )
    yield from _read_ahead(trace.parts_with(keys), lambda entry: work(plan.load(entry)))


def _read_ahead(entries: Sequence[PartEntry], load: Callable[[PartEntry], Made]) -> Iterator[Made]:
    waiting: deque[Future[Made]] = deque()
    left = iter(entries)
    try:
        for entry in left:
            waiting.append(readers().submit(load, entry))
            if len(waiting) > READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _token_column(tokens: pa.Table, name: str) -> np.ndarray:
    column = tokens[name]
    if name == "token_id":
        return np.asarray(column.fill_null(-1))
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    return column.to_numpy()


def _batch(trace: Trace, table: pa.Table, num_experts: int) -> EventBatch:
    prompt = np.asarray(table["prompt"])
    offsets, experts = _list_arrays(table["experts"])
    rows = len(prompt)
    k = len(experts) // rows if rows else 1
    regular = bool(k * rows == len(experts) and (np.diff(offsets) == k).all())
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
