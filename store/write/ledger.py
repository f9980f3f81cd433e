"""The ledger of a trace: it alone holds the lock and the manifest, however many processes write parts.

1. Who has recorded whole prompts reserves a part: a name that was never given before, and the keys of its prompts.
2. It puts the four files of the part under that name (`putter.py`), asking before each whether it still may.
3. It has the part listed. Parts are listed in the order in which they were reserved, so that keys leave no gap: who
   comes too early waits. Where a part before was given up, the keys have moved, and the part is built once more.

A writer that is given up (its process is gone, or is thought to be) gets nothing listed any more: what it still puts
lies under names that nobody else is given, and is removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ..errors import BadPart, NotATrace, StoreError, TraceLocked, plain_os_errors
from ..files.commits import CommitLog, remove_others
from ..files.folder import Folder, open_folder
from ..files.lock import HeartbeatLock, acquire_lock
from ..files.manifest import TABLES, Manifest, PartEntry, current_versions
from ..files.runs import run_of, with_parts
from ..files.threads import far_readers
from ..schema import DEFAULT_CAPTURE, SCHEMA_VERSION, WHOLE_VERSION, RouterSpec
from .plain import ordered_capture, plain
from .target import check_same, refuse_present, refuse_strangers

WHOLE_PARTS = 64
"""Up to so many parts, a commit writes the whole manifest: it is small."""


@dataclass(frozen=True)
class Reservation:
    """A part that may be put: its name, and the key of its first prompt."""

    name: str
    first_prompt: int


@dataclass
class _Open:
    reservation: Reservation
    ids: tuple[str, ...]
    owner: str


Answer = Literal["listed", "wait"] | Reservation
"""The part is in the trace; or one that was reserved before it is not put yet; or its keys have moved: build it again
for this reservation."""


class Ledger:
    """See the module; the arguments are those of `TraceWriter`.

    Args:
        shared: parts are put by other processes, which may live on after this one: their names carry its mark.
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
        shared: bool = False,
    ):
        wanted = Manifest(
            created=_now(),
            versions=current_versions(),
            model=plain(model),
            prompt_set=plain(prompt_set),
            settings=plain(settings),
            capture=ordered_capture(capture),
            weight_type=weight_type,
            steering=None if steering is None else plain(steering),
            noise=None if noise is None else plain(noise),
            routers=list(routers),
        )
        self._guard = threading.Lock()
        self._added = False
        self._open: list[_Open] = []
        self._gone: set[str] = set()
        self._log: CommitLog | None = None
        self._folder = open_folder(url, create=True)
        self._lock = acquire_lock(self._folder)
        try:
            self.manifest = self._begin(wanted, resume)
            self.manifest.runs = [*with_parts(self.manifest), run_of(wanted, len(self.manifest.parts))]
            self._next = 1 + max((int(entry.name.split("-")[1]) for entry in self.manifest.parts), default=-1)
            self._mark = self._own_mark(shared)
            self._committed = self._committed_ids()
            self._listed = sum(entry.prompts for entry in self.manifest.parts)
            self._remove_leftovers()
            self._save()
            remove_others(self._folder, self.manifest.commits, len(self.manifest.parts))
        except BaseException:
            self._lock.release()
            raise

    @property
    def folder(self) -> Folder:
        return self._folder

    @property
    def committed_prompts(self) -> set[str]:
        """Ids of the prompts that are safely on disk."""
        with self._guard:
            return set(self._committed)

    def reserve(self, ids: Sequence[str], owner: str = "") -> Reservation:
        """A name and keys for a part with these prompts.

        Raises:
            BadPart: an id that is no text, occurs twice, or is in the trace or in a part that is being put.
            TraceLocked: the owner was given up.
        """
        with self._guard:
            if owner in self._gone:
                raise TraceLocked(f"{self._folder.url}: this worker was declared dead, others do its work")
            self._check_new(ids)
            first = self._listed + sum(len(part.ids) for part in self._open)
            reservation = Reservation(self._new_name(), first)
            self._open.append(_Open(reservation, tuple(ids), owner))
            return reservation

    def check(self, name: str) -> None:
        """Raises TraceLocked where this part must not be put (any more)."""
        with self._guard:
            self._lock.check()
            self._find(name)

    def commit(self, name: str, entry: PartEntry) -> Answer:
        """Have a part listed whose files are put; see `Answer`.

        Raises:
            TraceLocked: the part was given up meanwhile.
            StoreError: the manifest can't be written; the part stays reserved.
        """
        with self._guard:
            part = self._find(name)
            if part is not self._open[0]:
                return "wait"
            if part.reservation.first_prompt != self._listed:
                part.reservation = Reservation(self._new_name(), self._listed)
                return part.reservation
            self.manifest.parts.append(entry)
            try:
                self._save_part()
            except BaseException:
                self.manifest.parts.pop()
                raise
            self._listed += entry.prompts
            self._open.pop(0)
            self._added = True
            self._committed |= set(part.ids)
            return "listed"

    def release(self, name: str) -> None:
        """Give up one part that was reserved; its prompts may be reserved again."""
        with self._guard:
            self._open = [part for part in self._open if part.reservation.name != name]

    def give_up(self, owner: str) -> None:
        """Give up a writer: whatever it reserved is not listed, now and later."""
        with self._guard:
            self._gone.add(owner)
            self._open = [part for part in self._open if part.owner != owner]

    def finish(self, **summary: Any) -> None:
        """Mark the trace complete; `summary` (plain JSON) is kept in the manifest, unless nothing was added to a
        trace that has one."""
        with self._guard:
            self.manifest.state = "complete"
            if self._added or not self.manifest.summary:
                self.manifest.summary = plain(summary)
            self._save_all()
            if self._gone:
                self._remove_leftovers()

    def close(self) -> None:
        """Let go of the trace; may be called twice. Without `finish` its state becomes `partial`."""
        with self._guard:
            try:
                if self.manifest.state == "running":
                    self.manifest.state = "partial"
                    with contextlib.suppress(StoreError):
                        self._save_all()
            finally:
                self._lock.release()

    def _begin(self, wanted: Manifest, resume: bool) -> Manifest:
        try:
            found = Manifest.load(self._folder)
        except NotATrace:
            refuse_strangers(self._folder)
            return wanted
        refuse_present(self._folder, found, resume)
        if not resume:
            return wanted
        check_same(self._folder, found, wanted)
        found.state, found.commits = "running", None
        found.noise = found.noise or wanted.noise
        return found

    def _committed_ids(self) -> set[str]:
        from ..files.tables import read_table

        def ids(entry: PartEntry) -> list[str]:
            return read_table(self._folder, entry, "prompts", ["prompt_id"])["prompt_id"].to_pylist()

        each = map if self._folder.local_path is not None else far_readers().map
        return {prompt_id for found in each(ids, self.manifest.parts) for prompt_id in found}

    def _remove_leftovers(self) -> None:
        """Files of a part that was never committed: its writer died between writing and listing it."""
        listed = {entry.name + ".parquet" for entry in self.manifest.parts}
        for table in TABLES:
            for name in self._folder.sizes(table):
                if name.startswith("part-") and name not in listed:
                    self._folder.remove(f"{table}/{name}")

    def _check_new(self, ids: Sequence[str]) -> None:
        seen = {prompt_id for part in self._open for prompt_id in part.ids}
        for prompt_id in ids:
            if not isinstance(prompt_id, str):
                raise BadPart("prompts: every prompt needs a prompt_id that is text")
            if prompt_id in self._committed or prompt_id in seen:
                raise BadPart(f"prompts: {prompt_id!r} is in the trace already")
            seen.add(prompt_id)

    def _own_mark(self, shared: bool) -> str:
        if isinstance(self._lock, HeartbeatLock):
            return f"-{self._lock.token[:8]}"
        return f"-{uuid.uuid4().hex[:8]}" if shared else ""

    def _new_name(self) -> str:
        """A name that no part had before. Where a dead writer may wake up again, it is this ledger's alone: files of
        the other then never lie under a name that is listed here."""
        number, self._next = self._next, self._next + 1
        return f"part-{number:05d}{self._mark}"

    def _find(self, name: str) -> _Open:
        for part in self._open:
            if part.reservation.name == name:
                return part
        raise TraceLocked(f"{self._folder.url}: {name} was declared dead, others do its work")

    def _save_part(self) -> None:
        """Make the last part durable: in a file of its own where the manifest has become long."""
        if self._log is None or self.manifest.runs != self._saved_runs:
            return self._save()
        self._lock.check()
        self.manifest.updated = _now()
        with plain_os_errors(f"{self._folder.url}: the commit could not be written"):
            self._log.add(self.manifest.parts, self.manifest.updated)

    def _save_all(self) -> None:
        """List every part in the manifest, and nothing beside it."""
        self._save(whole=True)
        remove_others(self._folder, None, len(self.manifest.parts))

    def _save(self, whole: bool = False) -> None:
        self._lock.check()
        manifest = self.manifest
        mark = (
            None if whole or len(manifest.parts) < WHOLE_PARTS else manifest.commits or uuid.uuid4().hex[:8]
        )
        manifest.commits, manifest.updated = mark, _now()
        manifest.schema_version = WHOLE_VERSION if mark is None else SCHEMA_VERSION
        with plain_os_errors(f"{self._folder.url}: the manifest could not be written"):
            manifest.save(self._folder)
        self._log = None if mark is None else CommitLog(self._folder, mark, len(manifest.parts))
        self._saved_runs = list(manifest.runs)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
