"""Files whose bytes were compared with the manifest's checksum in this process.

DuckDB ignores the CRC of a Parquet page, so SQL over a file that a disk changed would answer with wrong numbers.
Before the first statement that reads a table, each of its files is read once and compared (SHA-256, about 0.8 GB/s
a core). A file counts as checked as long as its size, time and inode stay what they were. Remote files are not read
twice: there every statement checks page CRCs (see `views.remote_source`), and here only the footers are.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.damage import check_sha256, told_as_damage
from ..files.folder import Folder
from ..files.footers import read_footer
from ..files.manifest import PartEntry
from ..files.threads import READERS

if TYPE_CHECKING:
    from ..read.trace_parts import TraceParts

_seen: set[tuple] = set()
_lock = threading.Lock()


def check_tables(trace: TraceParts, tables: Sequence[str]) -> None:
    """Compare the files of these tables with the manifest, all that were not yet.

    Raises:
        DamagedPart: a file is not what was written.
    """
    root = trace.folder.local_path
    if root is None:
        check_footers(trace, tables)
        return
    trace.in_threads(lambda file: _check(trace.folder, root, *file), _files(trace, tables))


def check_footers(trace: TraceParts, tables: Sequence[str]) -> None:
    """The same of the footers alone, which is quick. Raises DamagedPart."""
    trace.read_each(lambda file: read_footer(trace.folder, *file), _files(trace, tables), threads=READERS)


def _files(trace: TraceParts, tables: Sequence[str]) -> list[tuple[PartEntry, str]]:
    return [(entry, table) for table in tables for entry in trace.parts]


def _check(folder: Folder, root: Path, entry: PartEntry, table: str) -> None:
    path = root / entry.path(table)
    with told_as_damage(folder, entry, table), path.open("rb") as file:
        about = os.fstat(file.fileno())
        key = (str(path), about.st_size, about.st_mtime_ns, about.st_ino, entry.files[table].sha256)
        if key in _seen:
            return
        found = hashlib.file_digest(file, "sha256").hexdigest()
    check_sha256(entry, table, found)
    with _lock:
        _seen.add(key)
