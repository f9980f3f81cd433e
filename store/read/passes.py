"""Passes over all events of a router, as arrays that kernels take without a copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from ..errors import UnknownColumn
from ..files.footers import read_footer, row_groups
from ..files.tables import read_table
from ..files.threads import FAR_READERS, READERS, far_readers, fetchers, readers
from ..write.rollups import token_key
from .batches import EventBatch, batch_of, has_same_k
from .token_filter import ALL_TOKENS, TokenFilter

if TYPE_CHECKING:
    from ..files.manifest import PartEntry
    from .trace_parts import TraceParts
    from .trace_prompts import TracePrompts

KEYS = ["prompt", "position"]
_FEW_PROMPTS = 64
"""What is read for so few prompts is kept: the same neighbours may be asked for next."""

_AHEAD_BYTES = 128 << 20
"""What is read at once of parts behind a URL, as it lies there: 32 requests of `remote.RANGE_BYTES`."""

Made = TypeVar("Made")
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class _Pass:
    """What to read of each part, and which of its tokens."""

    trace: TracePrompts
    router: int
    columns: tuple[str, ...]
    token_columns: tuple[str, ...]
    keys: np.ndarray | None
    wanted: TokenFilter

    def load(self, entry: PartEntry) -> EventBatch:
        events, keys, tokens = self._tables(entry)
        prompt, position = (np.asarray(keys[name]) for name in KEYS)
        # Where every token has as many experts, a filter is a choice of rows of one (N, K) array and nothing is copied
        # before that; lists of other lengths are filtered as Arrow tables.
        rows = None
        if self.classes and not (of_class := self.wanted.of_tokens(tokens)).all():
            rows = np.flatnonzero(of_class)
            if not (len(rows) and has_same_k(events)):
                events, prompt, position = events.take(pa.array(rows)), prompt[rows], position[rows]
                tokens, rows = tokens.take(pa.array(rows)), None
        spec = self.trace.routers[self.router]
        batch = batch_of(events, prompt, position, self.trace.row_of_key(prompt), spec.num_experts)
        for name in self.token_columns:
            batch.tokens[name] = _token_column(tokens, name)
        return batch if rows is None else batch.kept(rows)

    def bytes_of(self, entry: PartEntry) -> int:
        """About what is read of a part."""
        events = entry.files["events"].bytes // max(1, len(self.trace.routers))
        return events + entry.files["tokens"].bytes

    @property
    def classes(self) -> list[str]:
        """Columns of the tokens that say which are wanted."""
        return self.wanted.columns()

    def _tables(self, entry: PartEntry) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Events of the part, and with a row for each of them their keys, and their tokens where those are needed.

        Every event has a row in the tokens, no two the same one, and both are sorted (the writer refuses others): as
        many events as tokens are those of all tokens in their order.
        """
        of_tokens = [*KEYS, *self.classes, *self.token_columns]
        of_events = ["experts", *self.columns]
        if self.trace.is_far and self.keys is None:
            # The footers of both files in one wait; the columns, below, in another.
            folder = self.trace.folder
            list(fetchers().map(lambda table: read_footer(folder, entry, table), ("events", "tokens")))
        groups = row_groups(self.trace.folder, entry, "events", self.router)
        if self.keys is None and sum(group.rows for group in groups) == entry.tokens:
            if self.trace.is_far:
                coming = fetchers().submit(self._read, entry, "tokens", of_tokens, None)
                events = self._read(entry, "events", of_events, self.router)
                return events, coming.result(), coming.result()
            tokens = self._read(entry, "tokens", of_tokens, None)
            return self._read(entry, "events", of_events, self.router), tokens, tokens
        events = self._read(entry, "events", [*KEYS, *of_events], self.router)
        if self.keys is not None:
            events = events.filter(pa.array(np.isin(events["prompt"], self.keys, kind="sort")))
        keys, events = events.select(KEYS), events.select(of_events)
        # Some tokens only (a filter, or a router that not every token passed): events find their token by its key.
        if len(of_tokens) == len(KEYS):
            return events, keys, keys
        tokens = self._read(entry, "tokens", of_tokens, None)
        if all(np.array_equal(tokens[name], keys[name]) for name in KEYS):
            return events, keys, tokens
        key_T, key_N = (token_key(*(np.asarray(table[name]) for name in KEYS)) for table in (tokens, keys))
        return events, keys, tokens.take(pa.array(np.searchsorted(key_T, key_N)))

    def _read(self, entry: PartEntry, table: str, columns: list[str], router: int | None) -> pa.Table:
        keep = self.keys is None or len(self.keys) <= _FEW_PROMPTS
        folder = self.trace.folder
        columns = list(dict.fromkeys(columns))
        return read_table(
            folder, entry, table, columns, router=router, prompts=self.keys, threads=False, keep=keep
        )


def map_router(
    trace: TracePrompts,
    work: Callable[[EventBatch], Made],
    layer: int,
    stream: str = "decoder",
    *,
    columns: Sequence[str] = ("experts",),
    token_columns: Sequence[str] = (),
    tokens: TokenFilter = ALL_TOKENS,
) -> Iterator[Made]:
    """`work` of each batch of `Trace.iter_router`, in order, done in the threads that read: for kernels that take
    longer than reading."""
    extra = [name for name in columns if name != "experts"]
    missing = [name for name in extra if name not in trace.manifest.capture]
    if missing:
        raise UnknownColumn(f"this trace did not capture {', '.join(missing)}")
    tokens.check()
    keys = trace.wanted_keys(where=tokens.where)
    plan = _Pass(
        trace=trace,
        router=trace.routers.index(trace.router(layer, stream)),
        columns=tuple(extra),
        token_columns=tuple(token_columns),
        keys=keys,
        wanted=tokens,
    )
    if trace.is_far:
        far_readers().submit(
            trace.row_of_key, np.zeros(0, np.int32)
        )  # the prompts come while the first parts do
    yield from read_ahead(trace, trace.parts_with(keys), lambda entry: work(plan.load(entry)), plan.bytes_of)


def read_ahead(
    trace: TraceParts,
    entries: Sequence[Piece],
    load: Callable[[Piece], Made],
    bytes_of: Callable[[Piece], int],
) -> Iterator[Made]:
    """What `load` makes of each part, or piece of one, in order, the next ones while the caller is at work.

    Args:
        bytes_of: about what is read of it: behind a URL so many are read at once as `_AHEAD_BYTES` hold.
    """
    yield from in_advance(trace, entries, load, max(map(bytes_of, entries), default=0))


def in_advance(
    trace: TraceParts, items: Iterable[Piece], load: Callable[[Piece], Made], largest: int
) -> Iterator[Made]:
    """The same of items that need not be known before.

    Args:
        largest: about what is read of one at most, in bytes.
    """
    pool, ahead = (far_readers(), FAR_READERS) if trace.is_far else (readers(), READERS)
    if trace.is_far:
        ahead = min(FAR_READERS, max(READERS, _AHEAD_BYTES // max(1, largest)))
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > ahead:
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
