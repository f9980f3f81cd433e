"""Writing a trace: one part after another, each on disk whole or not at all.

with TraceWriter("my-trace", routers=find_routers(model), model={...}, prompt_set={...}, settings={...})
as out:
    out.write(part)         # returns when the part would survive a power cut
    out.finish(seconds=12)  # without it the trace stays `partial`, and can be resumed
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import BadPart, NotATrace, ResumeRefused, StoreError, TraceExists, plain_os_errors
from ..files.folder import Folder, open_folder
from ..files.lock import HeartbeatLock, acquire_lock
from ..files.manifest import MANIFEST_NAME, TABLES, Manifest, PartEntry, current_versions
from ..files.runs import run_of, with_parts
from ..schema import CAPTURES, DEFAULT_CAPTURE, Part, RouterSpec
from .parts import PartBuilder

MAY_DIFFER = frozenset(
    {"batch_tokens", "batch_size", "device", "parallel", "limit", "name", "path", "url", "progress", "resume"}
)
"""Entries of `model`, `prompt_set` and `settings` that a resumed run may have otherwise. They do not change what is
asked of the model; another batch or device rounds otherwise, which near a tie changes an expert (`store.noise`)."""

SINCE = frozenset({"attention"})
"""Entries that traces of before do not have; those can be resumed."""


class TraceWriter:
    """The one writer of a trace.

    Args:
        url: folder or URL; made where it is not there.
        routers: one spec for each (layer, stream) that can have events.
        model, prompt_set, settings: what the trace was made from (plain JSON); kept in the manifest, and
        compared
            when resuming, apart from `MAY_DIFFER`.
        capture: what events hold, of `CAPTURES`; `ids` always.
        resume: go on with a trace that is there. A fresh folder is fine too.
        weight_type: gate weights are rounded to float16, or kept as float32.
        noise: a noise floor (`Noise.to_json()`), kept in the manifest; a resumed trace keeps its own.
    Raises:
        TraceExists: a trace is there and `resume` is off, or the folder holds other files.
        ResumeRefused: a trace is there that was made otherwise; the message says how.
        TraceLocked: another writer is at work.
        StoreError: the folder can't be written.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        routers: Sequence[RouterSpec],
        model: dict[str, Any],
        prompt_set: dict[str, Any],
        settings: dict[str, Any],
        capture: Iterable[str] = DEFAULT_CAPTURE,
        resume: bool = False,
        steering: dict[str, Any] | None = None,
        weight_type: str = "float16",
        noise: dict[str, Any] | None = None,
    ):
        wanted = Manifest(
            created=_now(),
            versions=current_versions(),
            model=_plain(model),
            prompt_set=_plain(prompt_set),
            settings=_plain(settings),
            capture=_ordered_capture(capture),
            weight_type=weight_type,
            steering=None if steering is None else _plain(steering),
            noise=None if noise is None else _plain(noise),
            routers=list(routers),
        )
        self._write_lock = threading.Lock()
        self._added = False
        self._folder = open_folder(url, create=True)
        self._lock = acquire_lock(self._folder)
        try:
            self._manifest = self._begin(wanted, resume)
            self._manifest.runs = [*with_parts(self._manifest), run_of(wanted, len(self._manifest.parts))]
            self._builder = PartBuilder(self._manifest.routers, self._manifest.capture, weight_type)
            self._committed = self._committed_ids()
            self._remove_leftovers()
            self._save()
        except BaseException:
            self._lock.release()
            raise

    @property
    def url(self) -> str:
        return self._folder.url

    @property
    def committed_prompts(self) -> set[str]:
        """Ids of the prompts that are safely on disk."""
        return set(self._committed)

    def write(self, part: Part) -> None:
        """Commit whole prompts with everything recorded of them; returns when they are durable.

        Safe to call from a background thread; calls are taken one after another.

        Raises:
            BadPart: the part contradicts itself, or repeats a prompt that is committed.
            StoreError: disk full, folder gone, ...; what was committed before stays readable.
        """
        with self._write_lock:
            ids = self._new_ids(part)
            first = sum(entry.prompts for entry in self._manifest.parts)
            name = self._new_name()
            self._commit(self._builder.build(part, name, first, partial(self._put, name)))
            self._added = True
            self._committed |= ids

    def finish(self, **summary: Any) -> None:
        """Mark the trace complete; `summary` (plain JSON) is kept in the manifest, unless nothing was added to a
        trace that has one."""
        with self._write_lock:
            self._manifest.state = "complete"
            if self._added or not self._manifest.summary:
                self._manifest.summary = _plain(summary)
            self._save()

    def close(self) -> None:
        """Let go of the trace; may be called twice. Without `finish` its state becomes `partial`."""
        with self._write_lock:
            try:
                if self._manifest.state == "running":
                    self._manifest.state = "partial"
                    with contextlib.suppress(StoreError):
                        self._save()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, wanted: Manifest, resume: bool) -> Manifest:
        try:
            found = Manifest.load(self._folder)
        except NotATrace:
            _refuse_strangers(self._folder)
            return wanted
        _refuse_present(self._folder, resume)
        _check_same(self._folder, found, wanted)
        found.state = "running"
        found.noise = found.noise or wanted.noise
        return found

    def _committed_ids(self) -> set[str]:
        from ..files.tables import read_table

        return {
            prompt_id
            for entry in self._manifest.parts
            for prompt_id in read_table(self._folder, entry, "prompts", ["prompt_id"])[
                "prompt_id"
            ].to_pylist()
        }

    def _remove_leftovers(self) -> None:
        """Files of a part that was never committed: its writer died between writing and listing it."""
        listed = {entry.name + ".parquet" for entry in self._manifest.parts}
        for table in TABLES:
            for name in self._folder.sizes(table):
                if name.startswith("part-") and name not in listed:
                    self._folder.remove(f"{table}/{name}")

    def _new_ids(self, part: Part) -> set[str]:
        ids = part.prompts["prompt_id"].to_pylist()
        seen: set[str] = set()
        for prompt_id in ids:
            if not isinstance(prompt_id, str):
                raise BadPart("prompts: every prompt needs a prompt_id that is text")
            if prompt_id in self._committed or prompt_id in seen:
                raise BadPart(f"prompts: {prompt_id!r} is in the trace already")
            seen.add(prompt_id)
        return seen

    def _new_name(self) -> str:
        """A name that no part had before. Where a dead writer may wake up again, it is this writer's alone: files of
        the other then never lie under a name that is listed here."""
        numbers = [int(entry.name.split("-")[1]) for entry in self._manifest.parts]
        own = f"-{self._lock.token[:8]}" if isinstance(self._lock, HeartbeatLock) else ""
        return f"part-{max(numbers, default=-1) + 1:05d}{own}"

    def _put(self, name: str, table: str, data: memoryview) -> None:
        self._lock.check()
        with plain_os_errors(f"{self.url}: {name} could not be written"):
            self._folder.put(f"{table}/{name}.parquet", data)

    def _commit(self, entry: PartEntry) -> None:
        self._manifest.parts.append(entry)
        try:
            self._save()
        except BaseException:
            self._manifest.parts.pop()
            raise

    def _save(self) -> None:
        self._lock.check()
        self._manifest.updated = _now()
        with plain_os_errors(f"{self.url}: the manifest could not be written"):
            self._manifest.save(self._folder)


def check_target(url: str | os.PathLike[str], *, resume: bool = False) -> None:
    """Refuses, before any model is loaded and without making anything, a place where no trace could begin.

    Of a URL of another machine nothing is said yet.

    Raises:
        TraceExists: a trace is there and `resume` is off, or the folder holds other files.
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
        Manifest.load(folder)
    except NotATrace:
        return _refuse_strangers(folder)
    _refuse_present(folder, resume)


def _refuse_present(folder: Folder, resume: bool) -> None:
    if not resume:
        raise TraceExists(f"{folder.url} already holds a trace: resume it, or choose another folder")


def _refuse_strangers(folder: Folder) -> None:
    """Files that lie where a new trace should be belong to somebody: leftovers always have a manifest."""
    names = [f"{table}/{name}" for table in TABLES for name in folder.sizes(table)]
    names += [name for name in folder.sizes("") if not name.startswith((".", MANIFEST_NAME))]
    if names:
        raise TraceExists(
            f"{folder.url} holds other files ({min(names)}) and no trace: choose an empty or a new folder"
        )


def _check_same(folder: Folder, found: Manifest, wanted: Manifest) -> None:
    for name in ("model", "prompt_set", "settings"):
        before, now = getattr(found, name), getattr(wanted, name)
        for key in sorted((before.keys() | now.keys()) - MAY_DIFFER - (SINCE - before.keys())):
            if before.get(key) != now.get(key):
                raise ResumeRefused(
                    f"{folder.url} can't be resumed: its {name} has {key} = {_short(before.get(key))}, "
                    f"this run {_short(now.get(key))}"
                )
    for name in ("capture", "weight_type", "steering", "routers"):
        if getattr(found, name) != getattr(wanted, name):
            raise ResumeRefused(
                f"{folder.url} can't be resumed: this run has another {name.replace('_', ' ')}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _ordered_capture(capture: Iterable[str]) -> list[str]:
    wanted = {"ids", *capture}
    unknown = sorted(wanted - set(CAPTURES))
    if unknown:
        raise StoreError(f"capture: {', '.join(unknown)} is not one of {', '.join(CAPTURES)}")
    return [name for name in CAPTURES if name in wanted]


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples become lists, other objects text, NaN null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.item()) if hasattr(value, "item") else str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
