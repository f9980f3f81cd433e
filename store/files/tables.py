"""Reading the rows of committed files; what was read last is kept."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .damage import told_as_damage
from .folder import Folder
from .footers import read_footer
from .manifest import PartEntry

_KEPT_BYTES = 384 << 20


class _Columns:
    """Decoded columns that were read last: the next question is often about the same layer, or prompt."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, pa.ChunkedArray] = OrderedDict()
        self._bytes = 0

    def get(self, place: tuple, columns: list[str], load: Callable[[list[str]], pa.Table]) -> pa.Table:
        """A table of these columns; `load` reads those that are not there."""
        found = {}
        with self._lock:
            for name in columns:
                if (key := (place, name)) in self._kept:
                    self._kept.move_to_end(key)
                    found[name] = self._kept[key]
        if missing := [name for name in columns if name not in found]:
            table = load(missing)
            found |= dict(zip(table.column_names, table.columns, strict=True))
            with self._lock:
                for name in missing:
                    self._keep((place, name), found[name])
        return pa.table({name: found[name] for name in columns})

    def _keep(self, key: tuple, column: pa.ChunkedArray) -> None:
        if key not in self._kept:
            self._kept[key] = column
            self._bytes += column.nbytes
        while self._bytes > _KEPT_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


_columns = _Columns()


def _upto(file: pq.ParquetFile, group: int, columns: list[str], key: int) -> pa.Table:
    """Rows of a row group up to the last one of a prompt."""
    keys = np.asarray(file.read_row_group(group, columns=["prompt"], use_threads=False)["prompt"])
    rows = max(1, int(np.searchsorted(keys, key + 1)))
    first = next(file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False))
    return pa.Table.from_batches([first])


def read_table(
    folder: Folder,
    entry: PartEntry,
    table: str,
    columns: Sequence[str],
    *,
    router: int | None = None,
    prompts: np.ndarray | None = None,
    groups: Sequence[int] | None = None,
    until: int | None = None,
    threads: bool = True,
    keep: bool = False,
) -> pa.Table:
    """Rows of one file of a part; row groups that can't hold what is asked for are not touched.

    Args:
        columns: those to read; others that the file may have are ignored.
        router: number of a router in the manifest: rows of that router only.
        prompts: sorted keys: row groups with none of these prompts are skipped. The rows that come back still
            hold the neighbours of the prompts: filter them.
        groups: numbers of row groups instead (see `row_groups`).
        until: key of a prompt of a single group: what lies behind it need not be decoded, and is not on a disk.
        keep: remember what was read for the next time, as memory allows: all prompts in one chunk, or each row group
            by itself.
    Raises:
        DamagedPart: the file is missing, truncated or changed.
    """
    metadata, index, remote = read_footer(folder, entry, table)
    place = (str(folder.local_path or folder.url), entry.files[table].sha256)
    whole = router is None and prompts is None and groups is None
    groups = index.select(router, prompts) if groups is None else list(groups)

    def read(groups: list[int], columns: list[str]) -> pa.Table:
        if remote is not None:
            found = remote.read_row_groups(groups, columns, threads=threads)
        else:
            with folder.open(entry.path(table)) as source:
                file = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
                if until is not None:
                    found = _upto(file, groups[0], columns, until)
                else:
                    found = file.read_row_groups(groups, columns=columns, use_threads=threads)
        _check_values(found, columns)
        return found

    with told_as_damage(folder, entry, table):
        if not keep:
            found = read(groups, list(columns))
        elif prompts is None:
            found = _columns.get(
                (*place, *groups), list(columns), lambda names: read(groups, names).combine_chunks()
            )
        else:
            pieces = [
                _columns.get((*place, at), list(columns), functools.partial(read, [at])) for at in groups
            ]
            found = pa.concat_tables(pieces) if pieces else read([], list(columns))
        if whole and found.num_rows != entry.files[table].rows:
            raise ValueError(f"it has {found.num_rows:,} rows")
    return found


def _check_values(table: pa.Table, columns: Sequence[str]) -> None:
    for column in table.columns:
        # The CRC of a dictionary page does not cover its header, which says how many values it has.
        if pa.types.is_dictionary(column.type):
            column.validate(full=True)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
