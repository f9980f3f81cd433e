"""A steering profile as a word in an address, and back."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

LONGEST = 6_000
"""Characters; longer addresses are cut by some servers and mail programs."""
LARGEST = 1_000_000
"""Bytes of JSON that a link may unfold to."""


def encode(made: Mapping[str, Any]) -> str | None:
    """The profile for an address; None where it would be too long."""
    plain = json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()
    word = base64.urlsafe_b64encode(zlib.compress(plain, 9)).decode().rstrip("=")
    return word if len(word) <= LONGEST else None


def decode(word: str) -> Any:
    """Plain data out of an address. Raises ValueError where it holds no profile."""
    try:
        packed = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(packed, LARGEST)
        if unpacker.unconsumed_tail:
            raise ValueError("it is too large")
        return json.loads(plain)
    except (ValueError, zlib.error, RecursionError) as error:
        raise ValueError(f"the address holds no readable profile: {error}") from None
