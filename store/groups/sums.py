"""Sums by group beside the parts of a trace, so that a question about groups does not read the sums of every prompt.

1. Prompts fall into groups (`cells.py`).
2. Part by part, the rollups of each router are added up by (group, phase, special, completion).
3. The sums go into one file, then the list names it (`files/group_list.py`).

Whole numbers are exact. Sums of weights and probabilities are added as float64 in the order of parts: they differ from
those of one pass over all prompts by the rounding of that order.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from ..errors import StoreError, plain_os_errors
from ..files.footers import row_groups
from ..files.group_list import LIST_NAME, TABLE, GroupList, parts_mark
from ..files.layout import GROUPS_FILE, PartFile
from ..files.lock import acquire_lock, is_being_written
from ..files.manifest import PartEntry
from ..files.tables import read_table
from ..read.arrays import RollupRows, sum_rows
from ..read.passes import read_ahead
from ..read.rollup_cache import ROW_COLUMNS, rollup_rows, sum_values
from ..read.trace_parts import TraceParts
from ..schema import RouterSpec
from ..write.parts import file_entry
from ..write.rollups import PHASES, sum_lists
from .cells import Cells, find_cells

_SUMS = ("count", "weight_sum", "probability_sum")
_NUMBERS = ("tokens", "nan_tokens", "entropy_sum")
_DECODED = 2
"""Bytes of sums in memory for each on disk, about; what limits how many parts are read at once."""


def write_group_sums(
    trace: TraceParts,
    by: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GroupList:
    """Make the sums by group of a trace that is not being written; those that it had are replaced.

    Args:
        by: columns and tags to group by; None takes all that have few enough combinations.
        progress: told of (parts, of all parts).
    Raises:
        StoreError: a part is damaged, the trace is being written, or the folder can't be written.
    """
    folder = trace.folder
    if is_being_written(folder):
        raise StoreError(f"{folder.url} is being written: wait until its run has ended")
    if trace.problems:
        raise StoreError(f"sums need every part: {trace.problems[0]}")
    lock = acquire_lock(folder)
    try:
        cells = find_cells(trace, by)
        data = _file(trace.routers, _summed(trace, cells, progress))
        lock.check()
        return _put(trace, cells, data)
    finally:
        lock.release()


def _put(trace: TraceParts, cells: Cells, file: PartFile) -> GroupList:
    data, name = file.close(), f"sums-{uuid.uuid4().hex[:8]}"
    listed = GroupList(
        columns=cells.columns, cells=cells.values, parts=parts_mark(trace.manifest.parts), name=name,
        file=file_entry(file.rows, data),
    )  # fmt: skip
    folder, path = trace.folder, listed.entry().path(TABLE)
    with plain_os_errors(f"{folder.url}: {path} could not be written"):
        folder.put(path, data)
        try:
            listed.save(folder)
        except OSError:
            with contextlib.suppress(OSError):
                folder.remove(path)
            raise
    for other in folder.sizes(TABLE):
        if other not in (os.path.basename(LIST_NAME), os.path.basename(path)):
            with contextlib.suppress(OSError):  # nobody reads what stays
                folder.remove(f"{TABLE}/{other}")
    return listed


@dataclass
class _Sums:
    """Of one router: a row for each (group, phase, special, completion) that has tokens. A column is None where any
    part lacks it."""

    code_R: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(R,) group << 4 | phase << 2 | special << 1 | completion, rising."""
    columns: dict[str, np.ndarray | None] = field(default_factory=dict)
    """Of `_NUMBERS` (R,) and `_SUMS` (R, E)."""

    def add(self, other: _Sums) -> None:
        if not len(self.code_R):
            self.code_R, self.columns = other.code_R, other.columns
            return
        codes = np.union1d(self.code_R, other.code_R)
        for name, mine in self.columns.items():
            theirs = other.columns[name]
            if mine is None or theirs is None:
                self.columns[name] = None
                continue
            if len(codes) > len(self.code_R):
                wider = np.zeros((len(codes), *mine.shape[1:]), mine.dtype)
                wider[np.searchsorted(codes, self.code_R)] = mine
                self.columns[name] = mine = wider
            mine[np.searchsorted(codes, other.code_R)] += theirs
        self.code_R = codes


def _summed(trace: TraceParts, cells: Cells, progress: Callable[[int, int], None]) -> dict[int, _Sums]:
    """By number of the router."""

    def load(entry: PartEntry) -> dict[int, _Sums]:
        return _of_part(trace, entry, cells.of_part[entry.name])

    def bytes_of(entry: PartEntry) -> int:
        return _DECODED * entry.files["rollups"].bytes

    sums: dict[int, _Sums] = {}
    for done, found in enumerate(read_ahead(trace, trace.parts, load, bytes_of), 1):
        for router, of_part in found.items():
            sums.setdefault(router, _Sums()).add(of_part)
        progress(done, len(trace.parts))
    return sums


def _of_part(trace: TraceParts, entry: PartEntry, cell_P: np.ndarray) -> dict[int, _Sums]:
    names = [*ROW_COLUMNS, *_SUMS]
    groups = row_groups(trace.folder, entry, "rollups")
    table = read_table(trace.folder, entry, "rollups", names, threads=False)
    routers = np.repeat([group.router for group in groups], [group.rows for group in groups])
    found = {}
    for router in np.unique(routers).tolist():
        at = np.flatnonzero(routers == router)
        of_router = table.slice(at[0], len(at))
        rows = rollup_rows(
            of_router,
            trace.routers[router].num_experts,
            lambda keys: keys.astype(np.int64) - entry.first_prompt,
        )
        rows = replace(rows, **{name: sum_values(of_router, name, rows) for name in _SUMS})
        found[router] = _grouped(rows, cell_P)
    return found


def _grouped(rows: RollupRows, cell_P: np.ndarray) -> _Sums:
    code_R = cell_P[rows.prompt_R] << 4 | rows.phase_R.astype(np.int64) << 2
    code_R |= rows.special_R.astype(np.int64) << 1 | rows.completion_R.astype(np.int64)
    codes, group_R = np.unique(code_R, return_inverse=True)
    columns: dict[str, np.ndarray | None] = {}
    for name in _NUMBERS:
        values = getattr(rows, f"{name}_R")
        kind = np.float64 if name == "entropy_sum" else np.int64
        columns[name] = None if values is None else sum_rows(values, group_R, len(codes), kind)
    for name in _SUMS:
        columns[name] = rows.grouped(name, group_R, len(codes))
    return _Sums(codes, columns)


def _file(routers: Sequence[RouterSpec], sums: dict[int, _Sums]) -> PartFile:
    """A row group a router."""
    file = PartFile(GROUPS_FILE)
    for number, spec in enumerate(routers):
        if number in sums:
            cell_R = sums[number].code_R >> 4
            file.add(_table(spec, sums[number]), router=number, first=int(cell_R[0]), last=int(cell_R[-1]))
    return file


def _table(spec: RouterSpec, sums: _Sums) -> pa.Table:
    # Undoes the packing of `code_R` (R,): bits 2-3 hold the phase, 1 special, 0 completion, the rest the group.
    code_R, rows = sums.code_R, len(sums.code_R)
    columns: dict[str, pa.Array] = {
        "cell": pa.array(code_R >> 4, pa.int32()),
        "layer": pa.array(np.full(rows, spec.layer, np.int32)),
        "stream": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([spec.stream])),
        "phase": pa.DictionaryArray.from_arrays(pa.array(code_R >> 2 & 3, pa.int8()), pa.array(PHASES)),
        "special": pa.array((code_R >> 1 & 1).astype(bool)),
        "completion": pa.array((code_R & 1).astype(bool)),
    }
    for name, values in sums.columns.items():
        if values is not None:
            wide = values.astype(np.uint64) if name == "count" else values
            columns[name] = sum_lists(wide) if wide.ndim == 2 else pa.array(wide)
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in GROUPS_FILE]
    return pa.Table.from_arrays(arrays, schema=GROUPS_FILE)
