"""A report: entries in an order, kept as one JSON file in the library.

Files are replaced atomically, so that a reader, or a second session, sees a whole report at any moment.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from .item import Item

FOLDER = "reports"
SUFFIX = ".report.json"
VERSION = 1


class ReportError(ValueError):
    """A report that cannot be read, or an entry that is not in it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Entries in the order in which they are read."""

    name: str
    title: str = ""
    items: tuple[Item, ...] = ()
    updated: str = ""

    def added(self, item: Item) -> Self:
        return replace(self, items=(*self.items, item))

    def without(self, id: str) -> Self:
        return replace(self, items=tuple(item for item in self.items if item.id != id))

    def moved(self, id: str, by: int) -> Self:
        """The entry `by` places later (or earlier, where negative); it stays within the report."""
        items = [item for item in self.items if item.id != id]
        at = self._at(id)
        items.insert(min(max(at + by, 0), len(items)), self.items[at])
        return replace(self, items=tuple(items))

    def captioned(self, id: str, caption: str) -> Self:
        at = self._at(id)
        items = list(self.items)
        items[at] = replace(items[at], caption=caption)
        return replace(self, items=tuple(items))

    def _at(self, id: str) -> int:
        for number, item in enumerate(self.items):
            if item.id == id:
                return number
        raise ReportError(f"the report {self.name!r} has no entry {id}")

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "name": self.name,
            "title": self.title,
            "updated": self.updated,
            "items": [item.to_json() for item in self.items],
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises ReportError where the data is not a report, or one of a newer moescope."""
        if not isinstance(data, dict) or not isinstance(data.get("version"), int):
            raise ReportError("this is not a report: it has no version")
        if data["version"] > VERSION:
            raise ReportError(
                f"the report has version {data['version']}; this moescope reads up to {VERSION}"
            )
        try:
            items = tuple(Item.from_json(item) for item in data["items"])
            return cls(name=str(data["name"]), title=str(data.get("title", "")), items=items,
                       updated=str(data.get("updated", "")))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ReportError(f"the report is damaged: {error}") from error


def folder_of(library: Path) -> Path:
    """Where a library keeps its reports."""
    return library / FOLDER


def file_of(library: Path, name: str) -> Path:
    """Raises ReportError for a name that is no file name."""
    if not re.fullmatch(r"[\w][\w .-]{0,79}", name) or name.endswith("."):
        raise ReportError(
            f"{name!r} is not a valid report name: use letters, digits, spaces, dots and dashes"
        )
    return folder_of(library) / f"{name}{SUFFIX}"


def names(library: Path) -> list[str]:
    """Reports of a library, newest first."""
    found = list(folder_of(library).glob(f"*{SUFFIX}"))
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.name.removesuffix(SUFFIX) for path in found]


def load(library: Path, name: str) -> Report:
    """A report of the library; an empty one where there is none of that name. Raises ReportError."""
    path = file_of(library, name)
    try:
        return Report.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Report(name=name)
    except (OSError, ValueError) as error:
        raise ReportError(f"{path.name}: {error}") from error


def save(library: Path, report: Report) -> Path:
    """Replace the report's file. Raises OSError."""
    path = file_of(library, report.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = replace(report, updated=_now())
    data = json.dumps(stamped.to_json(), ensure_ascii=False).encode()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{report.name}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def change(library: Path, name: str, how: Callable[[Report], Report]) -> Report:
    """Read a report, change it and write it back. Raises ReportError, OSError."""
    changed = how(load(library, name))
    save(library, changed)
    return changed


def delete(library: Path, name: str) -> None:
    """Remove a report's file; nothing happens where there is none."""
    file_of(library, name).unlink(missing_ok=True)


def merged(name: str, title: str, items: Sequence[Item]) -> Report:
    """A report made at once, as by the command line."""
    return Report(name=name, title=title, items=tuple(items), updated=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
