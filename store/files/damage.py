"""What is wrong with a listed file that is not what the manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from ..errors import DamagedPart, Unreachable
from .folder import Folder
from .manifest import TABLES, PartEntry

_PIECE_BYTES = 4 << 20


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


@contextmanager
def told_as_damage(folder: Folder, entry: PartEntry, table: str) -> Iterator[None]:
    """Reading a file of a part: whatever goes wrong is a DamagedPart that names it. Behind a URL it may be the network:
    then the file is read once more, as a whole, and only one that is really another is damaged.

    Raises:
        DamagedPart: it is missing, or is not what was written.
        Unreachable: it can't be read now, or was read wrongly once.
    """
    try:
        yield
    except FileNotFoundError:
        raise damaged(entry, table, "the file is missing") from None
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        far = folder.local_path is None and isinstance(error, OSError | pa.ArrowException)
        if far and _is_whole(folder, entry, table):
            raise Unreachable(
                f"{folder.url}/{entry.path(table)} is whole, but reading it failed: {reason}; try again"
            ) from error
        raise damaged(entry, table, f"it can't be read: {reason}") from error


def _is_whole(folder: Folder, entry: PartEntry, table: str) -> bool:
    path = entry.path(table)
    try:
        return _sha256(folder, path) == entry.files[table].sha256
    except FileNotFoundError:
        raise damaged(entry, table, "the file is missing") from None
    except OSError as error:
        raise Unreachable(
            f"{folder.url}/{path} can't be read now, which says nothing about the trace: "
            f"{error.strerror or error}; try again"
        ) from error


def check_sha256(entry: PartEntry, table: str, found: str) -> None:
    """Compare a file's checksum, in hexadecimal, with the manifest's. Raises DamagedPart."""
    if found != entry.files[table].sha256:
        raise damaged(entry, table, f"its checksum is {found[:12]}…")


def find_problems(folder: Folder, entries: Sequence[PartEntry]) -> list[Problem]:
    """Parts with a missing or truncated file: one listing of each folder, no file is opened."""
    sizes = _sizes(folder) if entries else {}
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


def _sizes(folder: Folder) -> dict[str, dict[str, int]]:
    if folder.local_path is not None:
        return {table: folder.sizes(table) for table in TABLES}
    with ThreadPoolExecutor(len(TABLES)) as pool:
        return dict(zip(TABLES, pool.map(folder.sizes, TABLES), strict=True))


def _sha256(folder: Folder, path: str) -> str:
    """Of a file, in hexadecimal; a piece of it is in memory at a time. Raises OSError."""
    digest = hashlib.sha256()
    with folder.open(path) as source:
        while piece := source.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def verify_files(folder: Folder, entry: PartEntry) -> list[Problem]:
    """Read every byte of a part and compare checksums."""
    problems = []
    for table in entry.files:
        try:
            with told_as_damage(folder, entry, table):
                found = _sha256(folder, entry.path(table))
            check_sha256(entry, table, found)
        except DamagedPart as error:
            problems.append(Problem(entry.name, entry.path(table), str(error)))
    return problems
