"""Reading committed files, and saying what is wrong with one that is not what the manifest says."""

from __future__ import annotations

import functools
import hashlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DamagedPart
from .folder import Folder
from .layout import GroupIndex, footer_of
from .manifest import TABLES, PartEntry

_TAIL_BYTES = 1 << 16
_KEPT_FOOTERS = 512
_KEPT_BYTES = 384 << 20


@dataclass(frozen=True)
class Problem:
    """A listed part that can't be used; all its prompts are left out of everything."""

    part: str
    file: str
    message: str
    """One line: what is wrong, and what was expected."""

    def __str__(self) -> str:
        return self.message


def damaged(entry: PartEntry, table: str, reason: str) -> DamagedPart:
    file = entry.files[table]
    expected = f"{file.bytes:,} bytes, {file.rows:,} rows, sha256 {file.sha256[:12]}…"
    return DamagedPart(entry.name, f"{entry.path(table)}: {reason} (expected {expected})")


def find_problems(folder: Folder, entries: Sequence[PartEntry]) -> list[Problem]:
    """Parts with a missing or truncated file: one listing of each folder, no file is opened."""
    sizes = {table: folder.sizes(table) for table in TABLES} if entries else {}
    problems = []
    for entry in entries:
        for table in TABLES:
            found = sizes[table].get(f"{entry.name}.parquet")
            expected = entry.files[table].bytes
            if found == expected:
                continue
            reason = "the file is missing" if found is None else f"the file has {found:,} bytes"
            problems.append(Problem(entry.name, entry.path(table), str(damaged(entry, table, reason))))
            break
    return problems


def verify_files(folder: Folder, entry: PartEntry) -> list[Problem]:
    """Read every byte of a part and compare checksums."""
    problems = []
    for table in TABLES:
        try:
            found = hashlib.sha256(folder.read(entry.path(table))).hexdigest()
            reason = None if found == entry.files[table].sha256 else f"its checksum is {found[:12]}…"
        except FileNotFoundError:
            reason = "the file is missing"
        except OSError as error:
            reason = f"it can't be read: {error.strerror or error}"
        if reason:
            problems.append(Problem(entry.name, entry.path(table), str(damaged(entry, table, reason))))
    return problems


class _Footers:
    """Parsed footers of the files that were read last, for all traces of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, tuple[pq.FileMetaData, GroupIndex]] = OrderedDict()

    def get(self, folder: Folder, entry: PartEntry, table: str) -> tuple[pq.FileMetaData, GroupIndex]:
        key = (str(folder.local_path or folder.url), entry.path(table), entry.files[table].sha256)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        parsed = _parse_footer(folder, entry, table)
        with self._lock:
            self._kept[key] = parsed
            while len(self._kept) > _KEPT_FOOTERS:
                self._kept.popitem(last=False)
        return parsed


def _parse_footer(folder: Folder, entry: PartEntry, table: str) -> tuple[pq.FileMetaData, GroupIndex]:
    with folder.open(entry.path(table)) as source:
        size = source.size()
        if size != entry.files[table].bytes:
            raise ValueError(f"the file has {size:,} bytes")
        tail = memoryview(source.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES)))
        end = int.from_bytes(tail[-8:-4], "little") + 8
        if end > tail.nbytes:
            tail = memoryview(source.read_at(min(size, end), max(0, size - end)))
    footer = footer_of(tail)
    if zlib.crc32(footer) != entry.files[table].footer_crc32:
        raise ValueError("its footer is damaged")
    metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + bytes(footer) + bytes(tail[-8:])))
    return metadata, GroupIndex.from_metadata(metadata.metadata)


_footers = _Footers()


def check_footer(folder: Folder, entry: PartEntry, table: str) -> None:
    """Compare a file's footer with its checksum. Raises DamagedPart."""
    try:
        _footers.get(folder, entry, table)
    except FileNotFoundError:
        raise damaged(entry, table, "the file is missing") from None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise damaged(entry, table, f"it can't be read: {error}") from error


class RowGroup(NamedTuple):
    number: int
    router: int
    """Number of its router in the manifest; -1 in files without."""
    rows: int


def row_groups(
    folder: Folder, entry: PartEntry, table: str, router: int | None = None, prompts: np.ndarray | None = None
) -> list[RowGroup]:
    """Row groups that can hold rows of a router and of any of these prompts (sorted keys). Raises DamagedPart."""
    check_footer(folder, entry, table)
    metadata, index = _footers.get(folder, entry, table)
    return [
        RowGroup(at, index.router[at], metadata.row_group(at).num_rows)
        for at in index.select(router, prompts)
    ]


class _Tables:
    """Decoded row groups that were read last: the next question is often about the same layer, or prompt."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, pa.Table] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple, load: Callable[[], pa.Table]) -> pa.Table:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        table = load()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = table
                self._bytes += table.nbytes
            while self._bytes > _KEPT_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return table


_tables = _Tables()


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
        until: key of a prompt of a single group: what lies behind it need not be decoded.
        keep: remember what was read for the next time, as memory allows: all prompts in one chunk, or each row group
            by itself.
    Raises:
        DamagedPart: the file is missing, truncated or changed.
    """
    try:
        metadata, index = _footers.get(folder, entry, table)
        whole = router is None and prompts is None and groups is None
        groups = index.select(router, prompts) if groups is None else list(groups)

        def read(groups: list[int]) -> pa.Table:
            with folder.open(entry.path(table)) as source:
                file = pq.ParquetFile(
                    source,
                    metadata=metadata,
                    page_checksum_verification=True,
                    pre_buffer=folder.local_path is None,
                )
                if until is not None and folder.local_path is not None:
                    return _upto(file, groups[0], list(columns), until)
                return file.read_row_groups(groups, columns=list(columns), use_threads=threads)

        if keep:
            place = (str(folder.local_path or folder.url), entry.files[table].sha256)
            if prompts is None:
                found = _tables.get((*place, *columns, *groups), lambda: read(groups).combine_chunks())
            else:
                pieces = [_tables.get((*place, *columns, at), functools.partial(read, [at])) for at in groups]
                found = pa.concat_tables(pieces) if pieces else read([])
        else:
            found = read(groups)
        for column in found.columns:
            # The CRC of a dictionary page does not cover its header, which says how many values it has.
            if pa.types.is_dictionary(column.type):
                column.validate(full=True)
        missing = [name for name in columns if name not in found.column_names]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        if whole and found.num_rows != entry.files[table].rows:
            raise ValueError(f"it has {found.num_rows:,} rows")
        return found
    except FileNotFoundError:
        raise damaged(entry, table, "the file is missing") from None
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise damaged(entry, table, f"it can't be read: {error}") from error
