"""Where a trace may begin or go on: not on the files of somebody else, not with other settings than it began with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import NotATrace, ResumeRefused, StoreError, TraceExists, TraceLocked
from ..files.folder import Folder, open_folder
from ..files.lock import is_being_written
from ..files.manifest import MANIFEST_NAME, TABLES, Manifest

MAY_DIFFER = frozenset(
    {"batch_tokens", "batch_size", "device", "parallel", "limit", "name", "path", "url", "progress", "resume"}
)
"""Entries of `model`, `prompt_set` and `settings` that a resumed run may have otherwise. They do not change what is
asked of the model; another batch or device rounds otherwise, which near a tie changes an expert (`store.noise`)."""

SINCE = frozenset({"attention"})
"""Entries that traces of before do not have; those can be resumed."""


def check_target(url: str | os.PathLike[str], *, resume: bool = False) -> None:
    """Refuses, before any model is loaded and without making anything, a place where no trace could begin.

    Of a URL of another machine nothing is said yet.

    Raises:
        TraceExists: a trace with something in it is there and `resume` is off, or the folder holds other files.
        TraceLocked: another process is writing one.
        StoreError: it is no folder, or can't be written.
    """
    text = os.fspath(url)
    if "://" in text and not text.startswith("file://"):
        return
    path = Path(text.removeprefix("file://")).absolute()
    present = next(place for place in (path, *path.parents) if place.exists())
    if not present.is_dir():
        raise NotATrace(f"{present} is a file: a trace needs a folder")
    if not os.access(present, os.W_OK | os.X_OK):
        raise StoreError(f"{path}: {present} can't be written")
    if present != path:
        return
    folder = open_folder(url)
    try:
        found = Manifest.load(folder)
    except NotATrace:
        return refuse_strangers(folder)
    refuse_present(folder, found, resume)
    if not resume and is_being_written(folder):
        raise TraceLocked(f"{folder.url}: another process is writing this trace")


def refuse_present(folder: Folder, found: Manifest, resume: bool) -> None:
    if not resume and not is_empty(found):
        raise TraceExists(f"{folder.url} already holds a trace: resume it, or choose another folder")


def is_empty(found: Manifest) -> bool:
    """Whether a trace ended before anything was in it: another may begin in its place."""
    return not found.parts and found.state != "complete"


def refuse_strangers(folder: Folder) -> None:
    """Files that lie where a new trace should be belong to somebody: leftovers always have a manifest."""
    names = [f"{table}/{name}" for table in TABLES for name in folder.sizes(table)]
    names += [name for name in folder.sizes("") if not name.startswith((".", MANIFEST_NAME))]
    if names:
        raise TraceExists(
            f"{folder.url} holds other files ({min(names)}) and no trace: choose an empty or a new folder"
        )


def check_same(folder: Folder, found: Manifest, wanted: Manifest) -> None:
    """Raises ResumeRefused where a trace that is there was made otherwise than the one that is to go on."""
    if (difference := first_difference(found, wanted)) is not None:
        raise ResumeRefused(f"{folder.url} can't be resumed: {difference}")


def first_difference(
    found: Manifest, wanted: Manifest, *, other: str = "this run", but: frozenset[str] = frozenset()
) -> str | None:
    """What two traces don't have in common and one trace must, in words; None where nothing.

    Args:
        other: what `wanted` is.
        but: entries of `model`, `prompt_set` and `settings` that may differ beside `MAY_DIFFER`.
    """
    for name in ("model", "prompt_set", "settings"):
        before, now = getattr(found, name), getattr(wanted, name)
        for key in sorted((before.keys() | now.keys()) - MAY_DIFFER - but - (SINCE - before.keys())):
            if before.get(key) != now.get(key):
                return f"its {name} has {key} = {_short(before.get(key))}, {other} {_short(now.get(key))}"
    for name in ("capture", "weight_type", "steering", "routers"):
        if getattr(found, name) != getattr(wanted, name):
            which = "other routers" if name == "routers" else f"another {name.replace('_', ' ')}"
            return f"{other} has {which}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
