"""Sums by group (`moescope rollup`) in place of the sums of every prompt, for questions about groups of prompts.

A group is read as if it were one prompt: its `RollupRows` have its number where those of a trace have the prompt's row.
So views ask either in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..files.folder import Folder
from ..files.footers import row_groups
from ..files.group_list import TABLE, GroupList
from ..files.layout import ROLLUPS_FILE
from ..files.tables import read_table
from ..schema import PROMPTS, RouterSpec
from .arrays import RollupRows
from .rollup_cache import RollupCache, rollup_rows
from .selection import COLUMNS, Groups, PromptColumns, Where

WORTH_BYTES = 16 << 20
"""Behind a URL, rollups smaller than this are read about as fast as it takes to ask whether there are sums."""


class GroupSums:
    """The sums of all prompts of a trace by the values of some columns.

    Args:
        listed: of exactly the trace's parts.
    """

    def __init__(self, folder: Folder, listed: GroupList, routers: Sequence[RouterSpec]):
        self._folder, self._entry, self._routers = folder, listed.entry(), list(routers)
        self.columns = listed.columns
        self._cells = PromptColumns(_as_prompts(listed))
        self._cache = RollupCache(self._load, self._rows)

    def answers(self, by: str | None, where: Where | None) -> bool:
        """Whether the groups tell apart what is asked."""
        return ({by} - {None}) | set(where or {}) <= set(self.columns)

    def groups(self, by: str | None) -> Groups:
        """As of a trace, with a group for a prompt."""
        return self._cells.groups(by)

    def prompt_mask(self, where: Where | None) -> np.ndarray:
        """(G,) bool: which satisfy `where`. Raises UnknownColumn."""
        return self._cells.mask(where)

    def rollups(self, layer: int, stream: str = "decoder", *, sums: tuple[str, ...]) -> RollupRows:
        """Rows of one router; sums are uint64 and float64. `weight_max` is not among them."""
        return self._cache.get(self._number(layer, stream), sums)

    def read_ahead(self, layers: Sequence[int], stream: str, sums: tuple[str, ...]) -> None:
        """Read what a view is about to ask for, in one go."""
        self._cache.read_ahead([self._number(layer, stream) for layer in layers], sums)

    def _number(self, layer: int, stream: str) -> int:
        return next(at for at, spec in enumerate(self._routers) if spec.key == (stream, layer))

    def _load(self, routers: Sequence[int], names: list[str]) -> list[pa.Table]:
        stored = ["cell" if name == "prompt" else name for name in names if name != "experts"]
        groups = [one for one in row_groups(self._folder, self._entry, TABLE) if one.router in routers]
        numbers = [one.number for one in groups]
        table = read_table(self._folder, self._entry, TABLE, stored, groups=numbers)
        table = table.rename_columns(["prompt" if name == "cell" else name for name in stored])
        if "experts" in names:
            kind = ROLLUPS_FILE.field("experts").type
            table = table.append_column("experts", pa.nulls(table.num_rows, kind))
        ends = np.cumsum([one.rows for one in groups]).tolist()
        of = {
            one.router: table.slice(end - one.rows, one.rows) for one, end in zip(groups, ends, strict=True)
        }
        return [of.get(router, table.slice(0, 0)) for router in routers]

    def _rows(self, router: int, table: pa.Table) -> RollupRows:
        return rollup_rows(table, self._routers[router].num_experts, lambda cells: cells.astype(np.int64))


def _as_prompts(listed: GroupList) -> pa.Table:
    """One row a group, with its values as columns and tags of a prompt."""
    columns = {name: pa.nulls(len(listed.cells), PROMPTS.field(name).type) for name in COLUMNS}
    for at, name in enumerate(listed.columns):
        if name in COLUMNS:
            columns[name] = pa.array([cell[at] for cell in listed.cells], pa.string())
    tags = [
        [
            (name, value)
            for name, value in zip(listed.columns, cell, strict=True)
            if name not in COLUMNS and value is not None
        ]
        for cell in listed.cells
    ]
    columns["tags"] = pa.array(tags, pa.map_(pa.string(), pa.string()))
    return pa.table(columns)
