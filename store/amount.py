"""Counts with their noun, as they stand in sentences."""

from __future__ import annotations


def amount(number: float, noun: str, plural: str | None = None) -> str:
    """`1 prompt`, `2,000 prompts`; `plural` where it is not the noun with an s."""
    return f"{number:,.0f} {noun if number == 1 else plural or noun + 's'}"
