"""Answers to the questions of the page Deploy, in words with their numbers."""

from __future__ import annotations

import pyarrow as pa

from ..text import words


def placement_answer(table: pa.Table, method: str) -> str:
    """How even one placement is on held-out prompts, beside the plain ones.

    Args:
        table: the view `placement`.
        method: the one that is spoken of.
    """
    whole = {row["method"]: row for row in table.to_pylist() if row["layer"] is None}
    row = whole[method]
    said = (
        f"{method} loads devices to {words.percent(row['balancedness'])} of even on prompts that it was not fitted on"
        f"{_between(row['low'], row['high'])}"
    )
    plain = [
        f"{name} {words.percent(whole[name]['balancedness'])}"
        for name in ("contiguous", "random")
        if name in whole and name != method
    ]
    said += f"; {' and '.join(plain)}." if plain else "."
    if row["remote_share"] is not None:
        said += f" {words.percent(row['remote_share'])} of what goes from layer to layer changes the device."
    return said


def _between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" ({words.percent(low)} to {words.percent(high)})"
