"""What a trace is and which of its parts can be read; what happens when one turns out to be damaged."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Concatenate, Literal, ParamSpec, TypeVar

from ..errors import DamagedPart, UnknownColumn
from ..files.damage import Problem, find_problems, verify_files
from ..files.folder import Folder
from ..files.group_list import verify_groups
from ..files.lock import is_being_written
from ..files.manifest import Manifest, PartEntry
from ..files.router_check import check_routers
from ..files.threads import FAR_READERS
from ..schema import RouterSpec
from .memo import Memo

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound="TraceParts")
Item = TypeVar("Item")

THREADS = 2


class DamageWarning(UserWarning):
    """A part was found to be damaged while it was read, and is left out from now on."""


def retry_without_damaged_part(
    method: Callable[Concatenate[T, P], R],
) -> Callable[Concatenate[T, P], R]:
    """Start a call over without the part that turned out to be damaged while it was read."""

    @functools.wraps(method)
    def wrapper(self: T, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._local.__dict__.get("inside"):
            return method(self, *args, **kwargs)
        self._local.inside = True
        try:
            while True:
                try:
                    return method(self, *args, **kwargs)
                except DamagedPart as error:
                    self._leave_out(error)
        finally:
            self._local.inside = False

    return wrapper


class TraceParts:
    """The manifest, the parts and the routers: the base of `trace.Trace`."""

    def __init__(self, folder: Folder):
        self._folder = folder
        self._local = threading.local()
        self._lock = threading.RLock()
        self._load(Manifest.load(folder))

    def _load(self, manifest: Manifest) -> None:
        self.manifest: Manifest = manifest
        self.problems: list[Problem] = find_problems(self._folder, manifest.parts)
        self._use_parts()

    def _use_parts(self) -> None:
        bad = {problem.part for problem in self.problems}
        self.parts: list[PartEntry] = [entry for entry in self.manifest.parts if entry.name not in bad]
        self.memo = Memo()

    def _leave_out(self, error: DamagedPart) -> None:
        with self._lock:
            if error.part not in {entry.name for entry in self.parts}:
                raise error
            file = str(error).split(":", 1)[0]
            self.problems = [*self.problems, Problem(error.part, file, str(error))]
            self._use_parts()
        warnings.warn(f"left out: {error}", DamageWarning, stacklevel=3)

    # What there is

    @property
    def url(self) -> str:
        return self._folder.url

    @property
    def folder(self) -> Folder:
        return self._folder

    @property
    def routers(self) -> list[RouterSpec]:
        return self.manifest.routers

    @property
    def state(self) -> Literal["running", "partial", "complete"]:
        """`running` only while its writer lives; a trace whose writer was killed is `partial`."""
        if self.manifest.state == "complete":
            return "complete"
        return "running" if is_being_written(self._folder) else "partial"

    @property
    def num_prompts(self) -> int:
        return sum(entry.prompts for entry in self.parts)

    @property
    def num_tokens(self) -> int:
        return sum(entry.tokens for entry in self.parts)

    @property
    def num_events(self) -> int:
        """(token, router) pairs."""
        return sum(entry.events for entry in self.parts)

    def refresh(self) -> bool:
        """Look for parts that were committed since. True where something changed."""
        with self._lock:
            found = Manifest.load(self._folder)
            if found == self.manifest:
                return False
            self._load(found)
            return True

    def verify(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Problem]:
        """Read every byte of every listed part, compare checksums, and routers with those of the manifest: some MB of a
        file at a time, many parts at once behind a URL. Empty where all is well.

        Args:
            progress: told how many parts are done, and of how many.
        """
        entries, telling, done = self.manifest.parts, threading.Lock(), count(1)

        def problems_of(entry: PartEntry) -> list[Problem]:
            found = verify_files(self._folder, entry) or check_routers(self._folder, entry, self.routers)
            with telling:
                progress(next(done), len(entries))
            return found

        found = [problem for of_part in self.read_each(problems_of, entries) for problem in of_part]
        return found + verify_groups(self._folder)

    def router(self, layer: int, stream: str = "decoder") -> RouterSpec:
        """The spec of one router. Raises UnknownColumn where there is none."""
        return self.routers[self._router_number(layer, stream)]

    def _router_number(self, layer: int, stream: str) -> int:
        for number, spec in enumerate(self.routers):
            if spec.key == (stream, layer):
                return number
        raise UnknownColumn(
            f"the trace has no router at layer {layer}, stream {stream!r}; it has {self._has()}"
        )

    def _has(self) -> str:
        layers: dict[str, list[int]] = {}
        for spec in self.routers:
            layers.setdefault(spec.stream, []).append(spec.layer)
        return "; ".join(f"{name}: layers {', '.join(map(str, found))}" for name, found in layers.items())

    def select_routers(
        self, layer: int | Sequence[int] | None = None, stream: str | None = None
    ) -> list[RouterSpec]:
        """Routers of some layers (all: None) and a stream (all: None), in the model's order.

        Raises:
            UnknownColumn: a layer or the stream does not occur.
        """
        layers = None if layer is None else {layer} if isinstance(layer, int) else set(layer)
        found = [
            spec
            for spec in self.routers
            if (layers is None or spec.layer in layers) and (stream is None or spec.stream == stream)
        ]
        missing = (layers or set()) - {spec.layer for spec in found}
        if missing or (stream is not None and not found):
            what = f"layer {min(missing)}" if missing else f"stream {stream!r}"
            raise UnknownColumn(f"the trace has no router at {what}; it has {self._has()}")
        return found

    @property
    def is_far(self) -> bool:
        """Whether it lies behind a URL: a request takes long there whatever it brings, and many may be out at once."""
        return self._folder.local_path is None

    def in_threads(
        self, function: Callable[[Item], R], items: Iterable[Item], *, threads: int = THREADS
    ) -> list[R]:
        """`function` of each item, in order, a few at a time. Damage that one meets is raised here, so that the call
        that asked for all of them starts over as a whole."""

        def begin() -> None:
            self._local.inside = True

        with ThreadPoolExecutor(threads, initializer=begin) as pool:
            return list(pool.map(function, items))

    def read_each(self, read: Callable[[Item], R], items: Sequence[Item], *, threads: int = 1) -> list[R]:
        """What `read` gives for each item, in order: many at once behind a URL, `threads` on a disk."""
        at_once = min(FAR_READERS, len(items)) if self.is_far else threads
        return (
            self.in_threads(read, items, threads=at_once) if at_once > 1 else [read(item) for item in items]
        )
