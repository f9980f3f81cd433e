"""The tables of an opened trace.

Opening reads the manifest and lists the folders; it does not depend on how many events there are. A part that
is missing, truncated or damaged is left out with all its prompts, and named in `Trace.problems`; the rest
stays readable. A trace that is being written may be opened at any time and shows whole parts only; `refresh`
looks for new ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import DamagedPart, UnknownColumn
from ..files.footers import RowGroup, row_groups
from ..files.group_list import DamagedGroups, GroupList, parts_mark
from ..files.layout import ROLLUPS_FILE, TOKENS_FILE, events_schema
from ..files.manifest import PartEntry
from ..files.tables import read_table
from .arrays import RollupArrays, RollupRows, per_prompt
from .batches import EventBatch
from .group_sums import WORTH_BYTES, GroupSums
from .passes import map_router, read_ahead
from .prompt_rows import read_prompt
from .rollup_cache import CACHE_BYTES, SUMS, RollupCache, rollup_rows
from .selection import Where
from .token_filter import TokenFilter
from .trace_parts import DamageWarning, retry_without_damaged_part
from .trace_prompts import TracePrompts

_NAN = ["prompt", "layer", "stream", "nan_tokens"]
_READ_AT_ONCE = 1 << 25
"""Bytes of sums of several routers that are decoded together."""
_READ_AT_ONCE_FAR = 1 << 27
"""The same behind a URL, where each step waits for answers."""


class TraceRows(TracePrompts):
    """The tables of a trace: tokens, events, sums. Views and SQL build on it; `trace.Trace` offers those too."""

    def _use_parts(self) -> None:
        super()._use_parts()
        self._rollups = RollupCache(self._load_rollups, self._rollup_rows)
        self._group_sums_damaged = False

    # Rows of any table

    def read_rows(
        self,
        table: str,
        keys: np.ndarray | None,
        columns: Sequence[str],
        router: int | None = None,
    ) -> list[pa.Table]:
        """Rows of `tokens`, `events` or `rollups` by part, with the key `prompt`, filtered to the given
        keys."""
        parts = self.parts_with(keys)
        return self.read_each(lambda entry: self.read_part(entry, table, keys, columns, router), parts)

    def read_part(
        self,
        entry: PartEntry,
        table: str,
        keys: np.ndarray | None,
        columns: Sequence[str],
        router: int | None = None,
    ) -> pa.Table:
        """The same of one part. Raises DamagedPart."""
        if keys is not None and len(keys) == 1 and table in ("tokens", "events"):
            return read_prompt(self, entry, table, int(keys[0]), columns, router)
        piece = read_table(self._folder, entry, table, columns, router=router, prompts=keys)
        return of_prompts(piece, keys)

    @retry_without_damaged_part
    def tokens(self, prompt_id: str | int | None = None, where: Where | None = None) -> pa.Table:
        """Tokens of one prompt, or of all that satisfy `where`, by prompt and position.

        Columns: prompt_id, position, token_id, token, phase (prefill | decode), special, completion.
        """
        keys = self.wanted_keys(prompt_id, where)
        table = pa.concat_tables(
            [TOKENS_FILE.empty_table(), *self.read_rows("tokens", keys, TOKENS_FILE.names)]
        )
        phase = table.schema.get_field_index("phase")
        table = table.set_column(phase, "phase", table["phase"].cast(pa.string()))
        return self.with_ids(table)

    def iter_token_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the tokens, part by part, for what need not read them all."""

        def read(entry: PartEntry) -> pa.Table:
            return read_table(self._folder, entry, "tokens", columns)

        if self.is_far:
            yield from read_ahead(self, self.parts, read, lambda entry: entry.files["tokens"].bytes)
        else:
            yield from map(read, self.parts)

    # Events

    @retry_without_damaged_part
    def events(
        self,
        prompt_id: str | int | None = None,
        layer: int | Sequence[int] | None = None,
        stream: str | None = None,
        columns: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> pa.Table:
        """Events as a table: prompt_id, position, layer, stream, experts (in descending gate weight),
        weights, and what else was captured. By part, router, prompt and position.

        Args:
            columns: of those; None for all. Naming few is much faster.
            where: prompts to take, e.g. `{"language": ["ja", "ko"]}`.
        Raises:
            UnknownColumn: no such prompt, router or column.
        """
        schema = events_schema(self.routers, self.manifest.capture)
        names = [name if name != "prompt" else "prompt_id" for name in schema.names]
        unknown = [name for name in columns or () if name not in names]
        if unknown:
            raise UnknownColumn(f"events have no column {unknown[0]!r}; they have: {', '.join(names)}")
        wanted = [name for name in schema.names if columns is None or name == "prompt" or name in columns]
        keys = self.wanted_keys(prompt_id, where)
        chosen = self.select_routers(layer, stream)
        pieces = []
        for number in [None] if len(chosen) == len(self.routers) else map(self.routers.index, chosen):
            pieces += self.read_rows("events", keys, wanted, number)
        empty = pa.schema([schema.field(name) for name in wanted]).empty_table()
        table = pa.concat_tables([empty, *pieces])
        if "stream" in table.column_names:
            at = table.schema.get_field_index("stream")
            table = table.set_column(at, "stream", table["stream"].cast(pa.string()))
        table = self.with_ids(table)
        return table if columns is None else table.select(list(columns))

    def iter_router(
        self,
        layer: int,
        stream: str = "decoder",
        *,
        columns: Sequence[str] = ("experts",),
        token_columns: Sequence[str] = (),
        tokens: TokenFilter | None = None,
        **kinds: Any,
    ) -> Iterator[EventBatch]:
        """All events of one router as NumPy arrays, a batch a part, read ahead in the background.

        Args:
            columns: `experts` and any of `weights`, `entropy`, ... that were captured.
            token_columns: columns of the tokens to go with them, e.g. `token_id`.
            tokens: which tokens of which prompts; or the fields of a `TokenFilter` by name.
        See `passes.EventBatch` for what comes.
        """
        return map_router(
            self,
            lambda batch: batch,
            layer,
            stream,
            columns=columns,
            token_columns=token_columns,
            tokens=TokenFilter.of(tokens, kinds),
        )

    # Rollups

    def _load_rollups(self, routers: Sequence[int], names: list[str]) -> list[pa.Table]:
        pieces = {router: [ROLLUPS_FILE.empty_table().select(names)] for router in routers}

        def read(entry: PartEntry) -> tuple[list[RowGroup], pa.Table]:
            groups = [group for group in row_groups(self._folder, entry, "rollups") if group.router in pieces]
            numbers = [group.number for group in groups]
            return groups, read_table(self._folder, entry, "rollups", names, groups=numbers, threads=False)

        for groups, table in self.read_each(read, self.parts):
            ends = np.cumsum([group.rows for group in groups]).tolist()
            for group, end in zip(groups, ends, strict=True):
                pieces[group.router].append(table.slice(end - group.rows, group.rows))
        return [pa.concat_tables(pieces[router]) for router in routers]

    def _rollup_rows(self, router: int, table: pa.Table) -> RollupRows:
        return rollup_rows(table, self.routers[router].num_experts, self.row_of_key)

    @retry_without_damaged_part
    def rollups(self, layer: int, stream: str = "decoder", *, sums: tuple[str, ...] = SUMS) -> RollupRows:
        """All rollup rows of a router as arrays, kept in memory; see `arrays.RollupRows`.

        Args:
            sums: those of `rollup_cache.SUMS` that are needed: on a large trace, naming few is much faster.
        """
        return self._rollups.get(self._router_number(layer, stream), sums)

    def read_ahead(self, layers: Sequence[int], stream: str, sums: tuple[str, ...]) -> None:
        """Read the `rollups` that a view is about to ask for, as many as are sure to stay in memory: several routers
        at once take less time than one after another."""
        routers = [self._router_number(layer, stream) for layer in layers]
        experts = max((self.routers[router].num_experts for router in routers), default=1)
        rows = sum(entry.files["rollups"].rows for entry in self.parts) / max(1, len(self.routers))
        size = int(4 * rows * experts * len(sums)) + 1
        routers = routers[: CACHE_BYTES // 2 // size]
        step = max(1, (_READ_AT_ONCE_FAR if self.is_far else _READ_AT_ONCE) // size)
        self.in_threads(
            lambda first: self._rollups.read_ahead(routers[first : first + step], sums),
            range(0, len(routers), step),
        )

    @retry_without_damaged_part
    def rollup_arrays(
        self,
        layer: int,
        stream: str = "decoder",
        *,
        tokens: TokenFilter | None = None,
        **kinds: Any,
    ) -> RollupArrays:
        """Sums per prompt at one router: what views over prompts start from.

        Args:
            tokens: which tokens of which prompts; or the fields of a `TokenFilter` by name.
        Returns:
            `arrays.RollupArrays`; prompts without any such token are not in it.
        """
        rows = self.rollups(layer, stream)
        wanted = TokenFilter.of(tokens, kinds).rows(self, rows)
        return per_prompt(rows, layer, stream, wanted)

    def group_sums(self) -> GroupSums | None:
        """Sums of all prompts by group, where `moescope rollup` made them of exactly the parts that are read here."""
        if self._group_sums_damaged:
            return None
        return self.memo.get("group_sums", lambda: (self._find_group_sums(),))[0]

    def sums_by(self, by: str | None, where: Where | None) -> TraceRows | GroupSums:
        """What gives `groups`, `prompt_mask` and `rollups` for a question about groups of prompts: the sums by group
        where they tell apart what is asked, being far fewer, else this trace."""
        sums = self.group_sums()
        return sums if sums is not None and sums.answers(by, where) else self

    def _find_group_sums(self) -> GroupSums | None:
        if self.is_far and sum(entry.files["rollups"].bytes for entry in self.parts) < WORTH_BYTES:
            return None
        try:
            listed = GroupList.load(self._folder)
        except DamagedGroups as error:
            warnings.warn(str(error), DamageWarning, stacklevel=3)
            return None
        if listed is None or listed.parts != parts_mark(self.parts):
            return None
        return GroupSums(self._folder, listed, self.routers)

    def _leave_out(self, error: DamagedPart) -> None:
        if error.part.startswith("sums-"):  # no part: all that it says is in the rollups too
            self._group_sums_damaged = True
            warnings.warn(
                f"sums by group are not used: {error}; run moescope rollup again", DamageWarning, stacklevel=3
            )
            return
        super()._leave_out(error)

    @retry_without_damaged_part
    def nan_rows(self) -> pa.Table:
        """Where the router's logits held NaN: prompt_id, layer, stream, tokens, in the order of the trace."""
        return self.memo.get("nan_rows", lambda: (self._nan_rows(),))[0]

    def _nan_rows(self) -> pa.Table:
        # Only the parts whose entry in the manifest counts such events are read.
        parts = [entry for entry in self.parts if entry.nan_tokens]
        pieces = self.read_each(lambda entry: self.read_part(entry, "rollups", None, _NAN), parts)
        table = pa.concat_tables([ROLLUPS_FILE.empty_table().select(_NAN), *pieces])
        table = table.set_column(2, "stream", table["stream"].cast(pa.string()))
        table = table.filter(pa.array(np.asarray(table["nan_tokens"]) > 0))
        # A prompt has a row for each phase and kind of token.
        table = table.group_by(_NAN[:3], use_threads=False).aggregate([("nan_tokens", "sum")])
        order = [("prompt", "ascending"), ("layer", "ascending"), ("stream", "ascending")]
        return self.with_ids(table.rename_columns([*_NAN[:3], "tokens"]).sort_by(order))


def of_prompts(piece: pa.Table, keys: np.ndarray | None) -> pa.Table:
    """Rows of the prompts with these keys (rising); all for None."""
    if keys is None or not len(piece):
        return piece
    prompt = np.asarray(piece["prompt"])
    at = np.minimum(np.searchsorted(keys, prompt), len(keys) - 1)
    return piece.filter(pa.array(keys[at] == prompt))
