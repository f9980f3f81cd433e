"""Rollup rows of the routers that were used last, from tables to arrays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrow import pc
from ..files.layout import ROLLUPS_FILE
from ..write.rollups import PHASES
from .arrays import RollupRows

CACHE_BYTES = 512 << 20
SUMS = ("count", "weight_sum", "weight_max", "probability_sum")
"""Columns of E numbers a row: by far the largest, so that a view may ask for those that it needs."""
ROW_COLUMNS = tuple(name for name in ROLLUPS_FILE.names if name not in (*SUMS, "layer", "stream"))
_ROWS = "rows"


def rollup_rows(
    table: pa.Table, num_experts: int, row_of_key: Callable[[np.ndarray], np.ndarray]
) -> RollupRows:
    """Arrays of the columns of rollup rows other than SUMS; no copies where the table is in one chunk."""
    sparse = table.num_rows > 0 and table["experts"].null_count == 0
    cell_rows = cell_experts = None
    if sparse:
        lengths = np.asarray(pc.list_value_length(table["experts"]))
        cell_rows = np.repeat(np.arange(table.num_rows), lengths)
        cell_experts = _values(table, "experts")
    return RollupRows(
        num_experts=num_experts,
        prompt_R=row_of_key(np.asarray(table["prompt"])),
        phase_R=_phase_codes(table["phase"]),
        special_R=np.asarray(table["special"]),
        completion_R=np.asarray(table["completion"]),
        tokens_R=np.asarray(table["tokens"]),
        nan_tokens_R=np.asarray(table["nan_tokens"]),
        entropy_sum_R=None if table["entropy_sum"].null_count else np.asarray(table["entropy_sum"]),
        cell_rows=cell_rows,
        cell_experts=cell_experts,
    )


def sum_values(table: pa.Table, name: str, rows: RollupRows) -> np.ndarray | None:
    """One of SUMS as `RollupRows` has it; None where the trace lacks it (a column is there for all rows or none)."""
    if table[name].null_count:
        return None
    values = _values(table, name, narrow=name == "count")
    if rows.cell_experts is not None and name != "probability_sum":
        return values
    return values.reshape(table.num_rows, rows.num_experts)


def _values(table: pa.Table, name: str, narrow: bool = False) -> np.ndarray:
    """Values of a list column end to end; `narrow` whole numbers in the smallest type that holds them all."""
    chunks = [chunk.flatten() for chunk in table[name].chunks]
    if narrow:
        most = max((pc.max(chunk).as_py() or 0 for chunk in chunks), default=0)
        kind = pa.from_numpy_dtype(np.min_scalar_type(most))
        chunks = [chunk.cast(kind) for chunk in chunks]
    if len(chunks) <= 1:
        return np.asarray(chunks[0] if chunks else pa.array([], table[name].type.value_type))
    # Arrow's and NumPy's own allocators ask for huge pages: measured on a virtual machine, four times as slow here.
    return np.asarray(pa.concat_arrays(chunks, memory_pool=pa.system_memory_pool()))


def _phase_codes(column: pa.ChunkedArray) -> np.ndarray:
    codes = pc.index_in(column.cast(pa.string()), value_set=pa.array(PHASES))
    return np.asarray(codes).astype(np.uint8)


class RollupCache:
    """Rollup rows by router number, their sums apart; what was used least recently goes when `CACHE_BYTES` are
    exceeded.

    Args:
        load: reads the named columns of the rows of some routers, a table each.
    """

    def __init__(
        self,
        load: Callable[[Sequence[int], list[str]], list[pa.Table]],
        read_rows: Callable[[int, pa.Table], RollupRows],
    ):
        self._load, self._read_rows = load, read_rows
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], RollupRows | np.ndarray | None] = OrderedDict()

    def get(self, router: int, sums: tuple[str, ...] = SUMS) -> RollupRows:
        """Rows of a router with these of SUMS."""
        found = self._find(router, [_ROWS, *sums])
        if len(found) <= len(sums):
            (found,) = self._fill([router], sums)
        return replace(found[_ROWS], **{name: found[name] for name in sums})

    def read_ahead(self, routers: Sequence[int], sums: tuple[str, ...]) -> None:
        """Load what is missing of several routers in one pass over the parts."""
        routers = [router for router in routers if len(self._find(router, [_ROWS, *sums])) <= len(sums)]
        if routers:
            self._fill(routers, sums)

    def _fill(self, routers: Sequence[int], sums: tuple[str, ...]) -> list[dict[str, Any]]:
        found = [self._find(router, [_ROWS, *sums]) for router in routers]
        missing = [name for name in (_ROWS, *sums) if any(name not in have for have in found)]
        columns = [name for name in missing if name != _ROWS]
        # Read outside the lock: two routers may load at once.
        tables = self._load(routers, [*(ROW_COLUMNS if _ROWS in missing else ()), *columns])
        for router, have, table in zip(routers, found, tables, strict=True):
            if _ROWS not in have:
                have[_ROWS] = self._read_rows(router, table)
            have |= {name: sum_values(table, name, have[_ROWS]) for name in columns if name not in have}
            self._keep(router, have)
        return found

    def _find(self, router: int, names: list[str]) -> dict[str, Any]:
        with self._lock:
            there = [name for name in names if (router, name) in self._kept]
            for name in there:
                self._kept.move_to_end((router, name))
            return {name: self._kept[router, name] for name in there}

    def _keep(self, router: int, found: dict[str, Any]) -> None:
        with self._lock:
            self._kept |= {(router, name): value for name, value in found.items()}
            used = sum(value.nbytes for value in self._kept.values() if value is not None)
            while used > CACHE_BYTES and len(self._kept) > 1:
                value = self._kept.popitem(last=False)[1]
                used -= 0 if value is None else value.nbytes
