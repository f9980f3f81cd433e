"""`trace.json`: what a trace is, and the list of its committed parts.

A reader believes the manifest and nothing else: a file that it does not list is not there. It is replaced as
a whole (see `folder.py`), after the files that it newly lists are durable. While a long trace is being written, its
last parts are listed in files beside it (`commits.py`).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import DamagedTrace, NewerTrace, NotATrace, Unreachable
from ..noise import Noise
from ..schema import CAPTURES, SCHEMA_VERSION, WHOLE_VERSION, RouterSpec
from .commits import MANIFEST_NAME, TRIES, CommitFile, FileReplaced, listed, read_commits
from .entries import TABLES, FileEntry, PartEntry, check_sequence, checksum_of, part_entry, router_entry
from .folder import Folder

STATES = ("running", "complete", "partial")

__all__ = [
    "MANIFEST_NAME",
    "STATES",
    "TABLES",
    "FileEntry",
    "Manifest",
    "PartEntry",
    "checksum_of",
    "current_versions",
]


@dataclass(kw_only=True)
class Manifest(Mapping[str, Any]):
    """The content of `trace.json`. As a mapping it gives the plain JSON values that stand there."""

    schema_version: int = WHOLE_VERSION
    state: str = "running"
    """`running` or `partial` (a writer was at work, or left early), or `complete`."""
    created: str = ""
    """UTC, ISO 8601; `updated` is the time of the last commit."""
    updated: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    """Of moescope, Python and the libraries that made the trace."""
    model: dict[str, Any] = field(default_factory=dict)
    prompt_set: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    capture: list[str] = field(default_factory=list)
    weight_type: str = "float16"
    """How gate weights are stored: float16 or float32."""
    steering: dict[str, Any] | None = None
    """The steering profile that was active, or null."""
    noise: dict[str, Any] | None = None
    """The noise floor that was measured with it (`store.noise`), or null."""
    routers: list[RouterSpec] = field(default_factory=list)
    parts: list[PartEntry] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    """How the parts came about: one object for each run that committed any, with what may differ between runs."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What the tracer says at the end: seconds, tokens per second, ..."""
    commits: str | None = None
    """Mark of the files beside the manifest that list later parts (`commits.py`); null where `parts` is all."""
    checksum: str | None = None
    """SHA-256 of all other entries (`checksum_of`), set when it is saved; null in traces made before there was one."""

    def __getitem__(self, name: str) -> Any:
        return self.to_json()[name]

    def __iter__(self) -> Iterator[str]:
        return (f.name for f in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def to_json(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["routers"] = [spec.to_json() for spec in self.routers]
        data["parts"] = [part.to_json() for part in self.parts]
        return data

    def save(self, folder: Folder) -> None:
        """Replace the manifest in the folder. Raises OSError."""
        self.checksum = checksum_of(self.to_json())
        entries = [f"{json.dumps(name)}: {_lines(value)}" for name, value in self.to_json().items()]
        folder.put(MANIFEST_NAME, ("{\n" + ",\n".join(entries) + "\n}\n").encode())

    @classmethod
    def load(cls, folder: Folder) -> Manifest:
        """Read and check the manifest, and what was committed since it was written.

        Raises:
            NotATrace: there is none.
            NewerTrace: it has a version that is not known here.
            DamagedTrace: it is not what a manifest must be; the message says what is wrong.
            Unreachable: it lies behind a URL that does not answer now.
        """
        manifest = cls._read(folder)
        for _ in range(TRIES if manifest.commits is not None else 0):
            files = listed(folder)  # before the manifest: it then lists what these files no longer do
            try:
                return cls._read(folder)._with_commits(folder, files)
            except FileReplaced:
                continue
        if manifest.commits is not None:
            raise DamagedTrace(f"{folder.url}: files beside {MANIFEST_NAME} disappear while they are read")
        return manifest

    @classmethod
    def _read(cls, folder: Folder) -> Manifest:
        where = f"{folder.url}/{MANIFEST_NAME}"
        try:
            data = json.loads(folder.read(MANIFEST_NAME))
        except FileNotFoundError:
            raise NotATrace(f"{folder.url}: this is not a trace (it has no {MANIFEST_NAME})") from None
        except (ValueError, RecursionError) as error:
            raise DamagedTrace(f"{where} is not valid JSON: {error}") from error
        except OSError as error:
            kind = DamagedTrace if folder.local_path is not None else Unreachable
            raise kind(f"{where} can't be read: {error.strerror or error}") from error
        return cls.from_json(data, where)

    def _with_commits(self, folder: Folder, files: list[CommitFile]) -> Manifest:
        if self.commits is None:
            return self
        parts, updated = read_commits(folder, self.commits, len(self.parts), files)
        self.parts, self.updated = [*self.parts, *parts], updated or self.updated
        try:
            check_sequence(self.parts)
        except ValueError as error:
            raise DamagedTrace(f"{folder.url}: {error}") from None
        return self

    @classmethod
    def from_json(cls, data: Any, where: str = MANIFEST_NAME) -> Manifest:
        if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
            raise DamagedTrace(f"{where} has no schema_version: it is not the manifest of a trace")
        if data["schema_version"] > SCHEMA_VERSION:
            maker = data.get("versions")
            maker = maker.get("moescope", "a newer version") if isinstance(maker, dict) else "a newer version"
            raise NewerTrace(
                f"{where} has format {data['schema_version']}, written by moescope {maker}; "
                f"this moescope reads formats up to {SCHEMA_VERSION}: upgrade it"
            )
        try:
            if data.get("checksum") is not None and data["checksum"] != checksum_of(data):
                raise DamagedTrace(
                    f"{where} was changed after it was written: its checksum differs. Restore it from a copy; "
                    "after an intended change remove its entry `checksum`"
                )
            return cls._checked(data)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DamagedTrace(f"{where} is damaged: {reason}") from error

    @classmethod
    def _checked(cls, data: dict[str, Any]) -> Manifest:
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        known["routers"] = [router_entry(entry) for entry in data["routers"]]
        known["parts"] = [part_entry(entry) for entry in data["parts"]]
        manifest = cls(**known)
        for name in ("model", "prompt_set", "settings", "versions", "summary"):
            if not isinstance(getattr(manifest, name), dict):
                raise ValueError(f"{name} is not an object")
        if manifest.noise is not None:
            Noise.from_json(manifest.noise)
        if manifest.state not in STATES:
            raise ValueError(f"state is {manifest.state!r}, not one of {', '.join(STATES)}")
        if manifest.weight_type not in ("float16", "float32"):
            raise ValueError(f"weight_type is {manifest.weight_type!r}")
        if not set(manifest.capture) <= set(CAPTURES):
            raise ValueError(f"capture names something unknown: {manifest.capture}")
        keys = [spec.key for spec in manifest.routers]
        if len(set(keys)) < len(keys):
            raise ValueError("two routers have the same layer and stream")
        check_sequence(manifest.parts)
        if manifest.commits is not None and not isinstance(manifest.commits, str):
            raise ValueError(f"commits is {manifest.commits!r}, not text")
        if not isinstance(manifest.runs, list) or not all(isinstance(run, dict) for run in manifest.runs):
            raise ValueError("runs is not a list of objects")
        return manifest


def _lines(value: Any) -> str:
    """JSON with one line for each router and part: quick to write, and fit to be read."""
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False)
    return "[" + ",".join("\n " + json.dumps(item, allow_nan=False) for item in value) + "]"


def current_versions() -> dict[str, str]:
    """Versions of moescope, Python and the libraries that matter for a trace, as installed."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("moescope", "pyarrow", "numpy", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
