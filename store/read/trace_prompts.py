"""The prompts of a trace: their table, what they can be grouped by, and where their rows are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..arrow import pc
from ..errors import UnknownColumn
from ..files.layout import PROMPTS_FILE
from ..files.manifest import PartEntry
from ..files.tables import read_table
from ..files.threads import READERS
from .selection import COLUMNS, Groups, PromptColumns, Where
from .trace_parts import TraceParts, retry_without_damaged_part


class TracePrompts(TraceParts):
    """What `trace.Trace` knows of its prompts."""

    def _use_parts(self) -> None:
        super()._use_parts()
        self._prompt_table: pa.Table | None = None
        self._prompt_columns: PromptColumns | None = None

    def _prompts(self) -> pa.Table:
        with self._lock:
            if self._prompt_table is None:
                names = PROMPTS_FILE.names
                tables = self.read_each(
                    lambda entry: read_table(self._folder, entry, "prompts", names, threads=False),
                    self.parts,
                    threads=READERS,
                )
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

    @retry_without_damaged_part
    def prompts(self, where: Where | None = None) -> pa.Table:
        """The prompts, in the order they were traced: the columns of `schema.PROMPTS`."""
        table = self._prompts().drop_columns(["prompt"])
        return table if where is None else table.filter(pa.array(self._columns().mask(where)))

    @retry_without_damaged_part
    def tags(self) -> dict[str, list[str]]:
        """Columns that prompts can be grouped by, with their values: `language` and `group` where any prompt
        has one, then every tag but `picture`, which holds an image."""
        columns = self._columns()
        names = [name for name in columns.names() if name not in ("parallel_id", "prompt_id", "picture")]
        values = {name: columns.values(name) for name in names}
        return {name: found for name, found in values.items() if found}

    @retry_without_damaged_part
    def tag_names(self) -> list[str]:
        """Names of the tags, without the columns that every prompt has."""
        return [name for name in self._columns().names() if name not in COLUMNS]

    @retry_without_damaged_part
    def groups(self, by: str | None) -> Groups:
        """The prompts by the value of a column or tag; one group where `by` is None."""
        return self._columns().groups(by)

    @retry_without_damaged_part
    def prompt_mask(self, where: Where | None) -> np.ndarray:
        """(P,) bool over `prompts()`: which satisfy `where`."""
        return self._columns().mask(where)

    def _key_of(self, prompt_id: str | int) -> int:
        at = pc.index(self._prompts()["prompt_id"], pa.scalar(str(prompt_id))).as_py()
        if at < 0:
            raise UnknownColumn(f"the trace has no prompt {prompt_id!r}")
        return int(self._keys()[at])

    def wanted_keys(
        self, prompt_id: str | int | None = None, where: Where | None = None
    ) -> np.ndarray | None:
        """Keys of the prompts that satisfy both, rising; None for all. A number stands for the id that a prompt set
        with numbers as ids got from it."""
        if prompt_id is not None:
            where = {**(where or {}), "prompt_id": [str(prompt_id)]}
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
