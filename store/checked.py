"""Files whose bytes were compared with the manifest's checksum in this process.

DuckDB ignores the CRC of a Parquet page, so SQL over a file that a disk changed would answer with wrong numbers.
Before the first statement that reads a table, each of its files is read once and compared (SHA-256, about 0.8 GB/s
a core). A file counts as checked as long as its size, time and inode stay what they were. Remote files are not read
twice: there every statement checks page CRCs (see `sql_views.remote_source`), and here only the footers are.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import check_footer, damaged
from .manifest import PartEntry

if TYPE_CHECKING:
    from .trace_parts import TraceParts

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
    trace.in_threads(lambda file: _check(root, *file), _files(trace, tables))


def check_footers(trace: TraceParts, tables: Sequence[str]) -> None:
    """The same of the footers alone, which is quick. Raises DamagedPart."""
    trace.in_threads(lambda file: check_footer(trace.folder, *file), _files(trace, tables))


def _files(trace: TraceParts, tables: Sequence[str]) -> Iterable[tuple[PartEntry, str]]:
    return [(entry, table) for table in tables for entry in trace.parts]


def _check(root: Path, entry: PartEntry, table: str) -> None:
    path = root / entry.path(table)
    expected = entry.files[table].sha256
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            key = (str(path), about.st_size, about.st_mtime_ns, about.st_ino, expected)
            if key in _seen:
                return
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise damaged(entry, table, "the file is missing") from None
    except OSError as error:
        raise damaged(entry, table, f"it can't be read: {error.strerror or error}") from error
    if found != expected:
        raise damaged(entry, table, f"its checksum is {found[:12]}…")
    with _lock:
        _seen.add(key)
