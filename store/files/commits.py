"""Commits of a long trace, in small files beside `trace.json`: its list of parts is not written whole every time.

1. As long as a trace has few parts, a commit replaces `trace.json`.
2. Then the manifest names a mark, and each commit puts one file, `trace.json.MARK-FIRST-LAST`, with the entries of
   parts FIRST to LAST (LAST not included). Like a binary counter, the n-th commit since `trace.json` was written holds
   the last n & -n parts. So N commits write N/2 · log2 N entries, not N²/2, and a reader opens log2 N files at most.
3. What a later file holds too is removed one commit later: a reader that lists the folder meanwhile misses nothing.
4. The end of a run lists everything in `trace.json` again, without a mark. Files of another mark, as those of a
   writer that another one replaced, are no part of the trace.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DamagedTrace, Unreachable
from .entries import PartEntry, checksum_of, part_entry
from .folder import WRITING, Folder

MANIFEST_NAME = "trace.json"
TRIES = 20
"""Readings of a trace whose writer replaces files meanwhile."""


class FileReplaced(Exception):
    """A file that was listed is gone: its writer has put one that holds more."""


@dataclass(frozen=True)
class CommitFile:
    """The name of a file with commits."""

    mark: str
    first: int
    last: int
    """Numbers of parts; `last` is not included."""

    @property
    def name(self) -> str:
        return f"{MANIFEST_NAME}.{self.mark}-{self.first}-{self.last}"

    @classmethod
    def of(cls, name: str) -> CommitFile | None:
        """None where it is the name of something else."""
        fields = name.removeprefix(f"{MANIFEST_NAME}.").split("-")
        if not name.startswith(f"{MANIFEST_NAME}.") or len(fields) != 3:
            return None
        if not (fields[1].isdecimal() and fields[2].isdecimal()):
            return None
        return cls(fields[0], int(fields[1]), int(fields[2]))


def listed(folder: Folder) -> list[CommitFile]:
    """All files with commits, of any mark."""
    found = (CommitFile.of(name) for name in folder.sizes(""))
    return [file for file in found if file is not None]


def local_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the files with commits in a folder of this machine: they change with every commit. Empty elsewhere."""
    try:
        return sorted(name for name in os.listdir(path) if CommitFile.of(name) is not None)
    except OSError:
        return []


@dataclass
class CommitLog:
    """Puts commits of one run, after a manifest that lists `base` parts and names `mark`."""

    folder: Folder
    mark: str
    base: int
    _there: list[CommitFile] = field(default_factory=list)
    _replaced: list[CommitFile] = field(default_factory=list)

    def add(self, parts: Sequence[PartEntry], updated: str) -> None:
        """Commit the last of all parts. Raises OSError; then nothing is committed."""
        while self._replaced:
            self.folder.remove(self._replaced[-1].name)
            self._replaced.pop()
        number = len(parts) - self.base
        new = CommitFile(self.mark, len(parts) - (number & -number), len(parts))
        entries = [part.to_json() for part in parts[new.first :]]
        content: dict[str, Any] = {
            "commits": self.mark,
            "first": new.first,
            "updated": updated,
            "parts": entries,
        }
        content["checksum"] = checksum_of(content)
        self.folder.put(new.name, json.dumps(content, allow_nan=False).encode())
        self._replaced = [file for file in self._there if file.first >= new.first]
        self._there = [file for file in self._there if file.first < new.first] + [new]


def read_commits(
    folder: Folder, mark: str, base: int, files: Sequence[CommitFile]
) -> tuple[list[PartEntry], str]:
    """The parts after the first `base`, and when the last of them was committed ("" where none was).

    Args:
        files: that were listed before the manifest was read.
    Raises:
        FileReplaced: the writer has gone on; list and read again.
        DamagedTrace: a file is not what it must be, or one is missing.
    """
    parts: list[PartEntry] = []
    updated, ours = "", [file for file in files if file.mark == mark]
    while any(file.last > base + len(parts) for file in ours):
        end = base + len(parts)
        fitting = [file for file in ours if file.first <= end < file.last]
        if not fitting:
            raise DamagedTrace(
                f"{folder.url}: a file {MANIFEST_NAME}.{mark}-{end}-… is missing, later ones are there"
            )
        file = max(fitting, key=lambda one: one.last)
        entries, updated = _read(folder, file)
        parts += entries[end - file.first :]
    return parts, updated


def _read(folder: Folder, file: CommitFile) -> tuple[list[PartEntry], str]:
    where = f"{folder.url}/{file.name}"
    try:
        data = json.loads(folder.read(file.name))
        if data["checksum"] != checksum_of(data):
            raise DamagedTrace(f"{where} was changed after it was written: its checksum differs")
        parts = [part_entry(entry) for entry in data["parts"]]
        if (data["commits"], data["first"], len(parts)) != (file.mark, file.first, file.last - file.first):
            raise DamagedTrace(f"{where} holds other parts than its name says")
        return parts, str(data["updated"])
    except FileNotFoundError:
        raise FileReplaced(where) from None
    except OSError as error:
        kind = DamagedTrace if folder.local_path is not None else Unreachable
        raise kind(f"{where} can't be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedTrace(f"{where} is damaged: {error}") from error


def remove_others(folder: Folder, mark: str | None, base: int) -> None:
    """Remove files with commits that a manifest with this mark and so many parts needs no more, and those that a writer
    had not ended."""
    with contextlib.suppress(OSError):  # nobody reads what stays
        for name in folder.sizes(""):
            file = CommitFile.of(name.removesuffix(WRITING))
            if file is not None and (name.endswith(WRITING) or file.mark != mark or file.last <= base):
                folder.remove(name)
