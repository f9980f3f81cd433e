"""Changes of a library by its user: rename, tag, move to the bin, restore.

A trace is a folder, and so is an evaluation in `evaluations/`: these are moves of folders inside the library, nothing
is copied and nothing is lost before the bin is emptied. Tags stand in `library.json` of the library, not in the traces.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StoreError
from .files.folder import open_folder
from .files.lock import is_being_written
from .files.manifest import MANIFEST_NAME
from .files.whole import write_whole

BIN = ".bin"
TAGS = "library.json"
MOST_TAG = 60


@dataclass(frozen=True, kw_only=True)
class Binned:
    """A trace or an evaluation in the bin."""

    name: str
    """Name of its folder in the library."""
    folder: Path
    place: str = ""
    """Folder of the library that it was in; empty for a trace."""
    when: float
    """Seconds since 1970."""


def rename(library: Path, name: str, new: str) -> Path:
    """Give a trace another name.

    Raises:
        StoreError: no such trace, a name that is no file name or is taken, or a writer is at work.
    """
    source = _own(library, name)
    if not re.fullmatch(r"[\w][\w .-]{0,79}", new) or new.endswith((".", ".job")):
        raise StoreError(f"{new!r} is not a valid trace name: use letters, digits, spaces, dots and dashes")
    target = library / new
    if target.exists():
        raise StoreError(f"{new!r} is taken")
    _move(source, target)
    tags = _read(library)
    if name in tags:
        tags[new] = tags.pop(name)
        _write(library, tags)
    return target


def to_bin(library: Path, name: str) -> None:
    """Move a trace to the bin. Raises StoreError as `rename`."""
    source = _own(library, name)
    folder_to_bin(library, source)


def folder_to_bin(library: Path, folder: Path) -> None:
    """Move a folder of the library, or of one of its folders, to the same place in the bin.

    Raises:
        StoreError: it can't be moved.
    """
    place = library / BIN / folder.parent.relative_to(library)
    place.mkdir(parents=True, exist_ok=True)
    _move(folder, place / f"{time.time_ns()}-{folder.name}")


def binned(library: Path) -> list[Binned]:
    """What is in the bin, newest first."""
    found = []
    for folder in [*(library / BIN).glob("*-*"), *(library / BIN).glob("*/*-*")]:
        when, _, name = folder.name.partition("-")
        place = "" if folder.parent == library / BIN else folder.parent.name
        if when.isdigit() and not place.partition("-")[0].isdigit():
            found.append(Binned(name=name, folder=folder, when=int(when) / 1e9, place=place))
    return sorted(found, key=lambda one: one.when, reverse=True)


def restore(library: Path, one: Binned) -> Path:
    """Move it back; under a name with a number where its own is taken by now."""
    place = library / one.place
    place.mkdir(exist_ok=True)
    target, number = place / one.name, 2
    while target.exists():
        target, number = place / f"{one.name}-{number}", number + 1
    _move(one.folder, target)
    return target


def empty_bin(library: Path) -> None:
    """Remove what is in the bin for good."""
    shutil.rmtree(library / BIN, ignore_errors=False) if (library / BIN).is_dir() else None


def tags_of(library: Path) -> dict[str, list[str]]:
    """Trace → its tags, for those that have any."""
    return {name: list(tags) for name, tags in _read(library).items()}


def set_tags(library: Path, name: str, tags: Sequence[str]) -> None:
    """Replace the tags of a trace. Raises StoreError where there is no such trace."""
    _own(library, name, writing=True)
    kept = list(dict.fromkeys(tag.strip()[:MOST_TAG] for tag in tags if tag.strip()))
    known = _read(library)
    known.pop(name, None)
    _write(library, known | ({name: kept} if kept else {}))


def _own(library: Path, name: str, *, writing: bool = False) -> Path:
    """The folder of a trace that lies in the library itself."""
    folder = library / name
    if Path(name).name != name or folder.is_symlink() or not (folder / MANIFEST_NAME).is_file():
        raise StoreError(f"the library holds no trace {name!r} of its own")
    if not writing and is_being_written(open_folder(folder)):
        raise StoreError(f"{name!r} is being written: wait, or cancel its job first")
    return folder


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise StoreError(f"{source.name} could not be moved: {error.strerror or error}") from error


def _read(library: Path) -> dict[str, Any]:
    try:
        tags = json.loads((library / TAGS).read_text(encoding="utf-8"))["tags"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): value for name, value in tags.items() if isinstance(value, list)}


def _write(library: Path, tags: dict[str, Any]) -> None:
    write_whole(library / TAGS, json.dumps({"version": 1, "tags": tags}, ensure_ascii=False))
