"""`groups/groups.json`: of which parts a trace has sums by group, by which columns, and the file that holds them.

The list is replaced as a whole after its file is durable (each file has a name of its own), so a reader finds the old
sums or the new ones. Sums are used only while the trace's parts are exactly those that they were made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError, Unreachable
from .damage import Problem, verify_files
from .entries import FileEntry, PartEntry, checksum_of
from .folder import Folder

TABLE = "groups"
LIST_NAME = f"{TABLE}/groups.json"
VERSION = 1


class DamagedGroups(StoreError):
    """The list of sums by group is not what it must be."""


def parts_mark(parts: Sequence[PartEntry]) -> str:
    """SHA-256, in hexadecimal, of which prompts and rollups these parts hold."""
    rows = [
        [part.name, part.first_prompt, part.prompts, *(part.files[t].sha256 for t in ("prompts", "rollups"))]
        for part in parts
    ]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class GroupList:
    """What `groups/groups.json` says."""

    columns: tuple[str, ...]
    """Columns and tags of the prompts, by whose values the sums were made."""
    cells: tuple[tuple[str | None, ...], ...]
    """The combinations of values that occur, one for each group; null where a prompt has no value."""
    parts: str
    """`parts_mark` of the parts that were summed."""
    name: str
    """Of the file: `groups/NAME.parquet`."""
    file: FileEntry

    def entry(self) -> PartEntry:
        """The file as a part of the one table `groups`: it is read and checked as any other."""
        return PartEntry(
            name=self.name, first_prompt=0, prompts=len(self.cells), tokens=0, events=0, files={TABLE: self.file}
        )  # fmt: skip

    def save(self, folder: Folder) -> None:
        """Replace the list. Raises OSError."""
        data: dict[str, Any] = {"version": VERSION, **vars(self), "file": vars(self.file)}
        data["checksum"] = checksum_of(data)
        folder.put(LIST_NAME, (json.dumps(data) + "\n").encode())

    @classmethod
    def load(cls, folder: Folder) -> GroupList | None:
        """None where there is none, or a newer moescope wrote it in another version.

        Raises:
            DamagedGroups: it was changed.
            Unreachable: it is there and can't be read.
        """
        where = f"{folder.url}/{LIST_NAME}"
        try:
            data = json.loads(folder.read(LIST_NAME))
            if data["version"] > VERSION:
                return None
            if data["checksum"] != checksum_of(data):
                raise ValueError("its checksum differs")
            return cls(
                columns=tuple(data["columns"]), cells=tuple(map(tuple, data["cells"])), parts=data["parts"],
                name=data["name"], file=FileEntry(**data["file"]),
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreachable(f"{where} can't be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedGroups(f"{where} is damaged: {error}; run moescope rollup again") from error


def verify_groups(folder: Folder) -> list[Problem]:
    """Read the sums by group, where there are any, and compare their checksum. What is wrong leaves no part out."""
    try:
        listed = GroupList.load(folder)
    except DamagedGroups as error:
        return [Problem(TABLE, LIST_NAME, str(error))]
    return [] if listed is None else verify_files(folder, listed.entry())
