"""JSON objects in which no name is given twice."""

from __future__ import annotations

from typing import Any


def object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`. Raises ValueError for a name that is given twice: all but its last value would be
    lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{ascii(twice)[:40]} is given twice")
    return found
