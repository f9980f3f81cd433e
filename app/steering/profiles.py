"""Steering profiles as the pages make them: plain data, as files, kept in the library, and in an address."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...store.files.whole import write_whole
from ...store.schema import LayerExpert
from ..text.literal import safe_name, without_folders

PROFILE_VERSION = 1
FOLDER = ".profiles"
"""In the library's folder: profiles that are kept, a JSON file each."""
LARGEST_FILE = 20_000_000
"""Bytes; a learned vector of a large model has some million numbers."""
LONGEST_ADDRESS = 6_000
"""Characters; longer addresses are cut by some servers and mail programs."""
_NO_PROFILE = "profile= in the address holds no steering profile; the link may have been cut off or changed"
LARGEST_IN_ADDRESS = 1_000_000
"""Bytes of JSON that an address may unfold to."""


def profile(name: str, model: Any, rules: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A profile in the form that `Steering.from_json` reads. It is shared, so the model is named without folders."""
    named = without_folders(str(model or ""))
    return {"version": PROFILE_VERSION, "name": name, "model": named, "rules": [dict(rule) for rule in rules]}


def rules_by_layer(
    rule: str, cells: Iterable[LayerExpert], *, stream: str = "decoder", **amounts: Any
) -> list[dict[str, Any]]:
    """One rule a layer for a set of (layer, expert) cells, layers and experts in order."""
    experts_of: dict[int, set[int]] = {}
    for layer, expert in cells:
        experts_of.setdefault(layer, set()).add(expert)
    extra = {} if stream == "decoder" else {"stream": stream}
    return [
        {"rule": rule, "layers": [layer], "experts": sorted(experts), **amounts, **extra}
        for layer, experts in sorted(experts_of.items())
    ]


def as_file(made: Mapping[str, Any]) -> bytes:
    """The profile as a JSON file."""
    return (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()


def saved(library: Path) -> dict[str, Path]:
    """Profiles of the library by their file's name, in order."""
    return {path.stem: path for path in sorted((library / FOLDER).glob("*.json")) if path.is_file()}


def keep(library: Path, made: Mapping[str, Any]) -> Path:
    """Keep a profile under its name; one of the same name is replaced. Raises OSError."""
    path = library / FOLDER / f"{safe_name(str(made['name']) or 'profile')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a reader in another session never sees half a file.
    write_whole(path, as_file(made))
    return path


def read_kept(path: Path) -> bytes:
    """The file's bytes. Raises OSError, also where it is too large to be a profile."""
    if path.stat().st_size > LARGEST_FILE:
        raise OSError(f"{path.name} has more than {LARGEST_FILE:,} bytes")
    return path.read_bytes()


def in_address(made: Mapping[str, Any]) -> str | None:
    """The profile for an address; None where it would be too long."""
    plain = json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()
    word = base64.urlsafe_b64encode(zlib.compress(plain, 9)).decode().rstrip("=")
    return word if len(word) <= LONGEST_ADDRESS else None


def from_address(word: str) -> Any:
    """Plain data out of an address. Raises ValueError where it holds no profile."""
    try:
        packed = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(packed, LARGEST_IN_ADDRESS)
        made = None if unpacker.unconsumed_tail else json.loads(plain)
    except (ValueError, zlib.error, RecursionError):
        raise ValueError(_NO_PROFILE) from None
    if unpacker.unconsumed_tail:
        raise ValueError("the profile in the address is too large for one; load it as a file")
    return made
