"""Steering profiles that are kept: JSON files in a folder of the library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..screens.library.new_trace import safe_name
from . import profiles

FOLDER = ".profiles"
LARGEST = 20_000_000
"""Bytes; a learned vector of a large model has some million numbers."""


def saved(library: Path) -> dict[str, Path]:
    """Profiles of the library by their file's name, in order."""
    return {path.stem: path for path in sorted((library / FOLDER).glob("*.json")) if path.is_file()}


def save(library: Path, made: Mapping[str, Any]) -> Path:
    """Keep a profile under its name; one of the same name is replaced. Raises OSError."""
    path = library / FOLDER / f"{safe_name(str(made['name']) or 'profile')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a reader in another session never sees half a file.
    half = path.with_suffix(".json.part")
    half.write_bytes(profiles.as_file(made))
    half.replace(path)
    return path


def load(path: Path) -> bytes:
    """The file's bytes. Raises OSError, also where it is too large to be a profile."""
    if path.stat().st_size > LARGEST:
        raise OSError(f"{path.name} has more than {LARGEST:,} bytes")
    return path.read_bytes()
