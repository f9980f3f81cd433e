"""How long experts stay, in words."""

from __future__ import annotations

import pyarrow as pa

from ..text import words


def half_life(table: pa.Table) -> str:
    """The layer in which experts stay longest, beside chance.

    Args:
        table: the view `expert-half-life`.
    """
    rows = [row for row in table.to_pylist() if row["kept"] is not None]
    if not rows:
        return "No sequence has two consecutive tokens: nothing can be kept."
    best = max(rows, key=lambda row: row["kept"])
    first = (
        f"Layer {best['layer']} keeps experts longest: {words.percent(best['kept'])} of the uses of an expert are "
        f"repeated by the next token; independent tokens with this layer's load would repeat "
        f"{words.percent(best['kept_chance'])}."
    )
    if best["half_life"] is None:
        return f"{first} More than half of the uses last beyond the horizon."
    return f"{first} Half of the uses have ended after {best['half_life']:.2f} tokens."
