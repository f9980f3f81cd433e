"""Sums of what a pass over a trace gives part by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def add(sums: Sequence[Any] | None, more: Sequence[Any]) -> list[Any]:
    """Arrays or numbers added pairwise; the first ones as they are."""
    return list(more) if sums is None else [one + other for one, other in zip(sums, more, strict=True)]


def summed(parts: Iterable[Sequence[Any]]) -> list[Any]:
    """The pairwise sums of all parts; empty where there is none."""
    sums: list[Any] | None = None
    for part in parts:
        sums = add(sums, part)
    return sums or []
