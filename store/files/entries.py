"""Parts and files as the manifest lists them, and what must be true of them whoever wrote it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..schema import RouterSpec

TABLES = ("prompts", "tokens", "events", "rollups")
LARGEST = 2**31
"""Layers, experts and the keys of prompts are stored as int32."""
_PART_NAME = re.compile(r"part-[0-9]{5,9}(-[0-9a-f]{8})?")
"""With its writer's mark where a lock can be taken over: two writers never give one name."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAME_ROWS = ("prompts", "tokens", "events")
"""Numbers of a part that are the rows of the table of that name."""


def checksum_of(data: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the entries other than `checksum` in a canonical form: JSON with sorted keys, without
    blanks, in ASCII. How the file is laid out doesn't matter."""
    entries = {name: value for name, value in data.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a part."""

    rows: int
    bytes: int
    sha256: str
    footer_crc32: int
    """CRC-32 of the Parquet footer, checked whenever the file is opened; pages carry their own."""


@dataclass(frozen=True, kw_only=True)
class PartEntry:
    """One committed part."""

    name: str
    """`part-00000`, ...; its files are `TABLE/NAME.parquet`."""
    first_prompt: int
    """Key of its first prompt; the keys of a part are consecutive."""
    prompts: int
    tokens: int
    events: int
    """(token, router) pairs."""
    nan_tokens: int = 0
    """Events whose router logits held a NaN."""
    languages: dict[str, int] = field(default_factory=dict)
    """Prompts by language; prompts without one are left out."""
    files: dict[str, FileEntry]

    def path(self, table: str) -> str:
        return f"{table}/{self.name}.parquet"

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"files": {table: vars(file) for table, file in self.files.items()}}


def router_entry(entry: dict[str, Any]) -> RouterSpec:
    """A router of the manifest. Raises ValueError, KeyError or TypeError where it cannot be one."""
    spec = RouterSpec.from_json(entry)
    where = f"router of layer {spec.layer!r}"
    for name in ("stream", "router", "scoring", "note", "found_by"):
        if not isinstance(getattr(spec, name), str):
            raise ValueError(f"{where}: {name} is {getattr(spec, name)!r}, not text")
    if spec.experts is not None and not isinstance(spec.experts, str):
        raise ValueError(f"{where}: experts is {spec.experts!r}, not text")
    if not isinstance(spec.steerable, bool):
        raise ValueError(f"{where}: steerable is {spec.steerable!r}")
    _whole(spec.layer, f"{where}: layer", most=LARGEST - 1)
    _whole(spec.num_experts, f"{where}: num_experts", least=1, most=LARGEST)
    if spec.top_k is not None:
        _whole(spec.top_k, f"{where}: top_k", most=LARGEST)
    if spec.owners is not None:
        if len(spec.owners) != spec.num_experts:
            raise ValueError(f"{where}: {len(spec.owners)} owners for {spec.num_experts} experts")
        for owner in spec.owners:
            _whole(owner, f"{where}: an owner", most=LARGEST - 1)
    return spec


def part_entry(entry: dict[str, Any]) -> PartEntry:
    """A part of the manifest. Raises ValueError, KeyError or TypeError where it contradicts itself."""
    known: dict[str, Any] = {f.name: entry[f.name] for f in fields(PartEntry) if f.name in entry}
    known["files"] = {table: _file_entry(entry["files"][table], table) for table in TABLES}
    part = PartEntry(**known)
    if not _PART_NAME.fullmatch(part.name):
        raise ValueError(f"a part has the name {part.name!r}")
    for name in ("first_prompt", "prompts", "tokens", "events", "nan_tokens"):
        _whole(getattr(part, name), f"{part.name}: {name}")
    for name in _SAME_ROWS:
        if getattr(part, name) != part.files[name].rows:
            raise ValueError(
                f"{part.name}: {name} is {getattr(part, name)}, its file has {part.files[name].rows} rows"
            )
    for language, prompts in part.languages.items():
        _whole(prompts, f"{part.name}: prompts in {language!r}")
    if sum(part.languages.values()) > part.prompts:
        raise ValueError(f"{part.name}: languages count more than its {part.prompts} prompts")
    return part


def _file_entry(entry: dict[str, Any], table: str) -> FileEntry:
    file = FileEntry(**{f.name: entry[f.name] for f in fields(FileEntry)})
    for name in ("rows", "bytes", "footer_crc32"):
        _whole(getattr(file, name), f"{table}: {name}")
    if not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{table}: sha256 is {file.sha256!r}")
    return file


def check_sequence(parts: Iterable[PartEntry]) -> None:
    """Parts follow each other: keys of prompts without a gap, no name twice. Raises ValueError."""
    next_prompt, names = 0, set[str]()
    for part in parts:
        if part.first_prompt != next_prompt:
            raise ValueError(f"{part.name}: first_prompt is {part.first_prompt}, not {next_prompt}")
        if part.name in names:
            raise ValueError(f"{part.name} is listed twice")
        names.add(part.name)
        next_prompt += part.prompts


def _whole(value: Any, what: str, *, least: int = 0, most: int = 2**63 - 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{what} is {str(value)[:40]}")
