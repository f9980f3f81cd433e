"""What a contrast shows, in words with its numbers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def scan(table: pa.Table, q: float, target: str, rest: str, rate: bool) -> str:
    """How many experts survive, and the strongest of each direction."""
    rows = table.to_pylist()
    found = [row for row in rows if row["q"] <= q]
    head = f"{len(found)} of {len(rows)} experts have q ≤ {q} for {target} against {rest}."
    if not found:
        best = min(rows, key=lambda row: row["q"])
        return f"{head} The smallest q is {best['q']:.2g} ({_place(best)}): nothing here can be called a finding."
    up = max(found, key=lambda row: row["score"])
    down = min(found, key=lambda row: row["score"])
    parts = [
        f"{_place(row)} ({_means(row, rate)}, q = {row['q']:.2g})" for row in (up, down) if _toward(row, up)
    ]
    return f"{head} Strongest: {'; '.join(parts)}."


def _toward(row: dict[str, Any], up: dict[str, Any]) -> bool:
    return row["score"] > 0 if row is up else row["score"] < 0


def _place(row: dict[str, Any]) -> str:
    return f"layer {row['layer']}, expert {row['expert']}"


def _means(row: dict[str, Any], rate: bool) -> str:
    one, other = row["target_mean"], row["rest_mean"]
    if rate:
        return f"{one:.1%} of the target's tokens, {other:.1%} of the rest's"
    return f"{one:.3g} against {other:.3g}"


def overlap(row: dict[str, Any]) -> str:
    """Whether the top experts of two contrasts coincide."""
    return (
        f"{row['shared']} of the top {row['top']} experts are the same (Jaccard {row['jaccard']:.2f}); "
        f"{row['expected']:.1f} would be by chance, p = {row['p']:.2g}."
    )
