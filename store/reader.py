"""A trace, opened for reading.

Opening reads the manifest and lists the folders; it does not depend on how many events there are. A part that
is missing, truncated or damaged is left out with all its prompts, and named in `Trace.problems`; the rest
stays readable. A trace that is being written may be opened at any time and shows whole parts only; `refresh`
looks for new ones.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

from .arrays import SUMS, RollupArrays, RollupCache, RollupRows, per_prompt, rollup_rows
from .arrow import pc
from .errors import DamagedPart, UnknownColumn
from .files import Problem, find_problems, read_table, verify_files
from .folder import Folder, open_folder
from .lock import is_being_written
from .manifest import Manifest, PartEntry
from .schema import RouterSpec
from .selection import COLUMNS, Groups, PromptColumns, Where

if TYPE_CHECKING:
    from .passes import EventBatch

P = ParamSpec("P")
R = TypeVar("R")


class DamageWarning(UserWarning):
    """A part was found to be damaged while it was read, and is left out from now on."""


def survives_damage(
    method: Callable[Concatenate[Trace, P], R],
) -> Callable[Concatenate[Trace, P], R]:
    """Start a call over without the part that turned out to be damaged while it was read."""

    @functools.wraps(method)
    def wrapper(self: Trace, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._local.__dict__.get("inside"):
            return method(self, *args, **kwargs)
        self._local.inside = True
        try:
            while True:
                try:
                    return method(self, *args, **kwargs)
                except DamagedPart as error:
                    self._leave_out(error)
        finally:
            self._local.inside = False

    return wrapper


class Trace:
    """One trace. Safe to use from several threads. Made by `open_trace`."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._local = threading.local()
        self._lock = threading.RLock()
        self._load(Manifest.load(folder))

    def _load(self, manifest: Manifest) -> None:
        self.manifest: Manifest = manifest
        self.problems: list[Problem] = find_problems(self._folder, manifest.parts)
        self._use_parts()

    def _use_parts(self) -> None:
        bad = {problem.part for problem in self.problems}
        self.parts: list[PartEntry] = [entry for entry in self.manifest.parts if entry.name not in bad]
        self._prompt_table: pa.Table | None = None
        self._prompt_columns: PromptColumns | None = None
        self._rollups = RollupCache(self._load_rollups)

    def _leave_out(self, error: DamagedPart) -> None:
        with self._lock:
            if error.part not in {entry.name for entry in self.parts}:
                raise error
            file = str(error).split(":", 1)[0]
            self.problems = [*self.problems, Problem(error.part, file, str(error))]
            self._use_parts()
        warnings.warn(f"left out: {error}", DamageWarning, stacklevel=3)

    # What there is

    @property
    def url(self) -> str:
        return self._folder.url

    @property
    def folder(self) -> Folder:
        return self._folder

    @property
    def routers(self) -> list[RouterSpec]:
        return self.manifest.routers

    @property
    def state(self) -> Literal["running", "partial", "complete"]:
        """`running` only while its writer lives; a trace whose writer was killed is `partial`."""
        if self.manifest.state == "complete":
            return "complete"
        return "running" if is_being_written(self._folder) else "partial"

    @property
    def num_prompts(self) -> int:
        return sum(entry.prompts for entry in self.parts)

    @property
    def num_tokens(self) -> int:
        return sum(entry.tokens for entry in self.parts)

    @property
    def num_events(self) -> int:
        """(token, router) pairs."""
        return sum(entry.events for entry in self.parts)

    def refresh(self) -> bool:
        """Look for parts that were committed since. True where something changed."""
        with self._lock:
            found = Manifest.load(self._folder)
            if found == self.manifest:
                return False
            self._load(found)
            return True

    def verify(self) -> list[Problem]:
        """Read every byte of every listed part and compare checksums. Empty where all is well."""
        return [problem for entry in self.manifest.parts for problem in verify_files(self._folder, entry)]

    def router(self, layer: int, stream: str = "decoder") -> RouterSpec:
        """The spec of one router. Raises UnknownColumn where there is none."""
        return self.routers[self._router_number(layer, stream)]

    def _router_number(self, layer: int, stream: str) -> int:
        for number, spec in enumerate(self.routers):
            if (spec.layer, spec.stream) == (layer, stream):
                return number
        raise UnknownColumn(
            f"the trace has no router at layer {layer}, stream {stream!r}; it has {self._has()}"
        )

    def _has(self) -> str:
        layers: dict[str, list[int]] = {}
        for spec in self.routers:
            layers.setdefault(spec.stream, []).append(spec.layer)
        return "; ".join(f"{name}: layers {', '.join(map(str, found))}" for name, found in layers.items())

    def select_routers(
        self, layer: int | Sequence[int] | None = None, stream: str | None = None
    ) -> list[RouterSpec]:
        """Routers of some layers (all: None) and a stream (all: None), in the model's order.

        Raises:
            UnknownColumn: a layer or the stream does not occur.
        """
        layers = None if layer is None else {layer} if isinstance(layer, int) else set(layer)
        found = [
            spec
            for spec in self.routers
            if (layers is None or spec.layer in layers) and (stream is None or spec.stream == stream)
        ]
        missing = (layers or set()) - {spec.layer for spec in found}
        if missing or (stream is not None and not found):
            what = f"layer {min(missing)}" if missing else f"stream {stream!r}"
            raise UnknownColumn(f"the trace has no router at {what}; it has {self._has()}")
        return found

    # Prompts and tokens

    def _prompts(self) -> pa.Table:
        with self._lock:
            if self._prompt_table is None:
                from .layout import PROMPTS_FILE

                names = PROMPTS_FILE.names
                tables = [read_table(self._folder, entry, "prompts", names) for entry in self.parts]
                self._prompt_table = pa.concat_tables([PROMPTS_FILE.empty_table(), *tables]).combine_chunks()
                self._prompt_columns = PromptColumns(self._prompt_table)
            return self._prompt_table

    def _columns(self) -> PromptColumns:
        self._prompts()
        assert self._prompt_columns is not None
        return self._prompt_columns

    def _keys(self) -> np.ndarray:
        """(P,) keys of the prompts on disk, rising."""
        return np.asarray(self._prompts()["prompt"])

    def row_of_key(self, keys: np.ndarray) -> np.ndarray:
        """Rows of `prompts()` of the prompts with these keys."""
        known = self._keys()
        if len(known) and known[-1] == len(known) - 1:
            return keys.astype(np.int64)
        return np.searchsorted(known, keys)

    @survives_damage
    def prompts(self, where: Where | None = None) -> pa.Table:
        """The prompts, in the order they were traced: the columns of `schema.PROMPTS`."""
        table = self._prompts().drop_columns(["prompt"])
        return table if where is None else table.filter(pa.array(self._columns().mask(where)))

    @survives_damage
    def tags(self) -> dict[str, list[str]]:
        """Columns that prompts can be grouped by, with their values: `language` and `group` where any prompt
        has one, then every tag."""
        columns = self._columns()
        names = [name for name in columns.names() if name not in ("parallel_id", "prompt_id")]
        values = {name: columns.values(name) for name in names}
        return {name: found for name, found in values.items() if found}

    @survives_damage
    def tag_names(self) -> list[str]:
        """Names of the tags, without the columns that every prompt has."""
        return [name for name in self._columns().names() if name not in COLUMNS]

    @survives_damage
    def groups(self, by: str | None) -> Groups:
        """The prompts by the value of a column or tag; one group where `by` is None."""
        return self._columns().groups(by)

    @survives_damage
    def prompt_mask(self, where: Where | None) -> np.ndarray:
        """(P,) bool over `prompts()`: which satisfy `where`."""
        return self._columns().mask(where)

    def _key_of(self, prompt_id: str) -> int:
        at = pc.index(self._prompts()["prompt_id"], pa.scalar(prompt_id, pa.string())).as_py()
        if at < 0:
            raise UnknownColumn(f"the trace has no prompt {prompt_id!r}")
        return int(self._keys()[at])

    def wanted_keys(self, prompt_id: str | None = None, where: Where | None = None) -> np.ndarray | None:
        """Keys of the prompts that satisfy both, rising; None for all."""
        if prompt_id is not None:
            where = {**(where or {}), "prompt_id": [prompt_id]}
            self._key_of(prompt_id)
        return None if where is None else self._keys()[self._columns().mask(where)]

    def parts_with(self, keys: np.ndarray | None) -> list[PartEntry]:
        """Parts that hold any prompt with these keys (rising); all parts for None."""
        if keys is None:
            return self.parts
        found = []
        for entry in self.parts:
            low, high = np.searchsorted(keys, [entry.first_prompt, entry.first_prompt + entry.prompts])
            if high > low:
                found.append(entry)
        return found

    def with_ids(self, table: pa.Table) -> pa.Table:
        """`prompt_id` in place of the key."""
        rows = self.row_of_key(np.asarray(table["prompt"]))
        ids = self._prompts()["prompt_id"].take(pa.array(rows))
        return table.set_column(0, "prompt_id", ids)

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
        return [self.read_part(entry, table, keys, columns, router) for entry in parts]

    def read_part(
        self,
        entry: PartEntry,
        table: str,
        keys: np.ndarray | None,
        columns: Sequence[str],
        router: int | None = None,
    ) -> pa.Table:
        """The same of one part. Raises DamagedPart."""
        piece = read_table(self._folder, entry, table, columns, router=router, prompts=keys)
        if keys is None or not len(piece):
            return piece
        prompt = np.asarray(piece["prompt"])
        at = np.minimum(np.searchsorted(keys, prompt), len(keys) - 1)
        return piece.filter(pa.array(keys[at] == prompt))

    @survives_damage
    def tokens(self, prompt_id: str | None = None, where: Where | None = None) -> pa.Table:
        """Tokens of one prompt, or of all that satisfy `where`, by prompt and position.

        Columns: prompt_id, position, token_id, token, phase (prefill | decode), special, completion.
        """
        from .layout import TOKENS_FILE

        keys = self.wanted_keys(prompt_id, where)
        table = pa.concat_tables(
            [TOKENS_FILE.empty_table(), *self.read_rows("tokens", keys, TOKENS_FILE.names)]
        )
        phase = table.schema.get_field_index("phase")
        table = table.set_column(phase, "phase", table["phase"].cast(pa.string()))
        return self.with_ids(table)

    def iter_token_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the tokens, part by part, for what need not read them all."""
        for entry in self.parts:
            yield read_table(self._folder, entry, "tokens", columns)

    # Events

    @survives_damage
    def events(
        self,
        prompt_id: str | None = None,
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
        from .layout import events_schema

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
        where: Where | None = None,
        special: bool = True,
        phase: str | None = None,
        completion: bool | None = None,
    ) -> Iterator[EventBatch]:
        """All events of one router as NumPy arrays, a batch a part, read ahead in the background.

        Args:
            columns: `experts` and any of `weights`, `entropy`, ... that were captured.
            token_columns: columns of the tokens to go with them, e.g. `token_id`.
        The others are those of `rollup_arrays`. See `passes.EventBatch` for what comes.
        """
        from .passes import iter_router

        return iter_router(
            self,
            layer,
            stream,
            columns=columns,
            token_columns=token_columns,
            where=where,
            special=special,
            phase=phase,
            completion=completion,
        )

    # Rollups

    def _load_rollups(self, router: int, sums: tuple[str, ...]) -> RollupRows:
        from .layout import ROLLUPS_FILE

        names = [name for name in ROLLUPS_FILE.names if name not in SUMS or name in sums]
        pieces = [read_table(self._folder, entry, "rollups", names, router=router) for entry in self.parts]
        table = pa.concat_tables([ROLLUPS_FILE.empty_table().select(names), *pieces])
        return rollup_rows(table, self.routers[router].num_experts, self.row_of_key)

    @survives_damage
    def rollups(self, layer: int, stream: str = "decoder", *, sums: tuple[str, ...] = SUMS) -> RollupRows:
        """All rollup rows of a router as arrays, kept in memory; see `arrays.RollupRows`.

        Args:
            sums: those of `arrays.SUMS` that are needed: on a large trace, naming few is much faster.
        """
        return self._rollups.get(self._router_number(layer, stream), sums)

    @survives_damage
    def rollup_arrays(
        self,
        layer: int,
        stream: str = "decoder",
        *,
        where: Where | None = None,
        special: bool = True,
        phase: str | None = None,
        completion: bool | None = None,
    ) -> RollupArrays:
        """Sums per prompt at one router: what views over prompts start from.

        Args:
            where: prompts to take, column or tag → values.
            special: False leaves special and template tokens out.
            phase: `prefill` or `decode` for those tokens only.
            completion: True for the teacher-forced span only, False for the rest only.
        Returns:
            `arrays.RollupArrays`; prompts without any such token are not in it.
        """
        rows = self.rollups(layer, stream)
        wanted = rows.mask(special, phase, completion)
        if where is not None:
            wanted &= self._columns().mask(where)[rows.prompt_R]
        return per_prompt(rows, layer, stream, wanted)

    @survives_damage
    def counts(
        self,
        by: str | None = None,
        where: Where | None = None,
        special: bool = True,
        phase: str | None = None,
        *,
        completion: bool | None = None,
        layer: int | Sequence[int] | None = None,
        stream: str | None = None,
    ) -> pa.Table:
        """How often each expert was chosen: layer, stream, [the column `by`], expert, tokens, count,
        weight_sum, probability_sum, nan_tokens. One row for every expert, chosen or not; sums the trace lacks
        are null."""
        from .views.load import counts_table

        return counts_table(self, by, where, special, phase, completion, layer, stream)

    # Views and SQL

    @survives_damage
    def view(self, name: str, **params: Any) -> pa.Table:
        """A named view of `store/views`, as a table; `views.names()` lists them.

        Raises:
            UnknownColumn: no such view or parameter.
        """
        from .views import run

        return run(self, name, params)

    @survives_damage
    def sql(self, query: str, **limits: Any) -> pa.Table:
        """One read-only SELECT over prompts, tokens, events, selections and rollups; see `sql.run_query`."""
        from .sql import run_query

        return run_query(self, query, **limits)


def open_trace(url: str | os.PathLike[str]) -> Trace:
    """Open the trace at a folder or URL for reading.

    Raises:
        NotATrace, NewerTrace, DamagedTrace: all are StoreErrors that say what is wrong.
    """
    return Trace(open_folder(url))
