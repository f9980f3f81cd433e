"""Footers of Parquet files: read once, compared with their checksums, and which row groups a question needs."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .damage import told_as_damage
from .folder import Folder
from .layout import GroupIndex, footer_of
from .manifest import PartEntry
from .remote import RemoteParquet

_TAIL_BYTES = 1 << 16
_KEPT_FOOTERS = 512
_KEPT_BYTES = 16 << 20
"""As they lie on disk; more footers than `_KEPT_FOOTERS` are kept where they are small."""


class Footer(NamedTuple):
    """What a file is found to hold before any of its rows is read."""

    metadata: pq.FileMetaData
    groups: GroupIndex
    remote: RemoteParquet | None
    """The file itself, where it lies behind a URL."""


class _Footers:
    """Parsed footers of the files that were read last, for all traces of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, Footer] = OrderedDict()
        self._bytes = 0

    def get(self, folder: Folder, entry: PartEntry, table: str) -> Footer:
        key = (str(folder.local_path or folder.url), entry.path(table), entry.files[table].sha256)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        parsed = _parse_footer(folder, entry, table)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = parsed
                self._bytes += parsed.metadata.serialized_size
            while len(self._kept) > _KEPT_FOOTERS and self._bytes > _KEPT_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].metadata.serialized_size
        return parsed


def _parse_footer(folder: Folder, entry: PartEntry, table: str) -> Footer:
    file = folder.parquet(entry.path(table), entry.files[table].bytes)
    if file is not None and file.footer_crc32() == entry.files[table].footer_crc32:
        return Footer(file.metadata, GroupIndex.from_metadata(file.metadata.metadata), file)
    metadata = _checked_metadata(folder, entry, table)
    return Footer(metadata, GroupIndex.from_metadata(metadata.metadata), file)


def _checked_metadata(folder: Folder, entry: PartEntry, table: str) -> pq.FileMetaData:
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
    return pq.read_metadata(pa.BufferReader(b"PAR1" + bytes(footer) + bytes(tail[-8:])))


_footers = _Footers()


def read_footer(folder: Folder, entry: PartEntry, table: str) -> Footer:
    """A file's footer, the same as when it was written, and what its row groups hold. Raises DamagedPart."""
    with told_as_damage(folder, entry, table):
        return _footers.get(folder, entry, table)


class RowGroup(NamedTuple):
    number: int
    router: int
    """Number of its router in the manifest; -1 in files without."""
    rows: int


def row_groups(
    folder: Folder, entry: PartEntry, table: str, router: int | None = None, prompts: np.ndarray | None = None
) -> list[RowGroup]:
    """Row groups that can hold rows of a router and of any of these prompts (sorted keys). Raises DamagedPart."""
    footer = read_footer(folder, entry, table)
    return [
        RowGroup(at, footer.groups.router[at], footer.metadata.row_group(at).num_rows)
        for at in footer.groups.select(router, prompts)
    ]
