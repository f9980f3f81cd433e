"""JSON objects in which no name is given twice."""

from __future__ import annotations

from typing import Any


class NamedTwice(ValueError):
    """An object gives a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{ascii(name)[:40]} is given twice")
        self.name = name


def object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`. Raises NamedTwice for a name that is given twice: all but its last value would be
    lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise NamedTwice(next(name for name in names if names.count(name) > 1))
    return found
