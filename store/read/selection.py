"""Which prompts, and in which groups: what `where` and `by` mean everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..arrow import pc
from ..errors import UnknownColumn

COLUMNS = ("language", "group", "parallel_id", "prompt_id")
_LISTED = 20
"""Known values that a message names at most."""

Where = Mapping[str, Sequence[str] | str]
"""Column → the values that are let through; columns of `COLUMNS` or any tag. All conditions must hold."""


def group_column(by: str, taken: Collection[str]) -> str:
    """Name of the column of a result that holds the values of `by`: a tag may be called like a column of the result
    itself, and stands apart then.

    Args:
        taken: the result's own columns.
    """
    return f"by:{by}" if by in taken else by


@dataclass(frozen=True)
class Groups:
    """Prompts by the value of one column."""

    names: list[str | None]
    """G values, sorted; None (last) where some prompts have none."""
    group_P: np.ndarray
    """(P,) number of the group of each prompt."""


class PromptColumns:
    """The columns of a prompt table that prompts can be chosen and grouped by."""

    def __init__(self, prompts: pa.Table):
        self._prompts = prompts
        self._cache: dict[str, pa.Array] = {}

    def names(self) -> list[str]:
        """Columns that can be named in `where` and `by`: those of `COLUMNS`, then the tags in order."""
        tags = sorted(set(_flat_tags(self._prompts)["key"].to_pylist()) - set(COLUMNS))
        return [*COLUMNS, *tags]

    def column(self, name: str) -> pa.Array:
        """(P,) text, null where a prompt has none. Raises UnknownColumn."""
        if name not in self._cache:
            self._cache[name] = self._load(name)
        return self._cache[name]

    def _load(self, name: str) -> pa.Array:
        if name in COLUMNS:
            return self._prompts[name].combine_chunks()
        if name not in self.names():
            raise UnknownColumn(
                f"the prompts have no column or tag {name!r}; they have: {', '.join(self.names())}"
            )
        tags = self._prompts["tags"].combine_chunks()
        return pc.map_lookup(tags, pa.scalar(name), "first") if len(tags) else pa.array([], pa.string())

    def values(self, name: str) -> list[str]:
        """Different values of a column, sorted."""
        return sorted(pc.unique(self.column(name).drop_null()).to_pylist())

    def mask(self, where: Where | None) -> np.ndarray:
        """(P,) bool: prompts that satisfy every condition. An empty list chooses none.

        Raises:
            UnknownColumn: for a column, or a value, that no prompt has.
        """
        chosen = np.ones(self._prompts.num_rows, bool)
        for name, values in (where or {}).items():
            wanted = [values] if isinstance(values, str) else list(values)
            column = self.column(name)
            found = pc.is_in(column, value_set=pa.array(wanted, pa.string()))
            self._check(name, wanted, set(pc.unique(column.filter(found)).to_pylist()))
            chosen &= np.asarray(found)
        return chosen

    def _check(self, name: str, wanted: list[str], found: set[str]) -> None:
        unknown = [value for value in wanted if value not in found]
        if not unknown:
            return
        known = self.values(name)
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        there = ", ".join(known[:_LISTED]) + more if known else "none at all"
        raise UnknownColumn(f"no prompt has {name} {unknown[0]!r}; there is: {there}")

    def groups(self, by: str | None) -> Groups:
        """Prompts by the value of a column; all in one group where `by` is None."""
        if by is None:
            return Groups([None], np.zeros(self._prompts.num_rows, np.int64))
        column = self.column(by)
        names: list[str | None] = list(self.values(by))
        at = pc.index_in(column, value_set=pa.array(names, pa.string()))
        if column.null_count:
            names.append(None)
        return Groups(names, np.asarray(at.fill_null(len(names) - 1), dtype=np.int64))


def _flat_tags(prompts: pa.Table) -> pa.Table:
    tags = prompts["tags"].combine_chunks()
    return pa.table({"key": tags.keys, "value": tags.items})
