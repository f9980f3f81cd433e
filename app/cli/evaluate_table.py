"""How `moescope evaluate` shows a table to people."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa


def for_people(table: pa.Table) -> pa.Table:
    """Intervals as one cell each; changes of perplexity, which are relative, in percent."""

    def cell(row: dict[str, Any], *names: str) -> str:
        values = [row[name] for name in names]
        if any(value is None for value in values):
            return "–"
        form = "+.3%" if row["measure"] == "perplexity" else "+.4g"
        texts = [f"{value:{form}}" for value in values]
        if not all(map(math.isfinite, values[-2:])):  # too few texts for an interval
            return texts[0] if len(texts) == 3 else "–"
        return texts[0] + f" ({texts[1]} to {texts[2]})" if len(texts) == 3 else f"{texts[0]} to {texts[1]}"

    rows = []
    for row in table.to_pylist():
        rows.append(
            {name: row[name] for name in ("measure", "group", "base", "steered")}
            | {"change (95 %)": cell(row, "change", "low", "high")}
            | {f"random × {row['draws']}": cell(row, "random_low", "random_high")}
            | {"other layers": cell(row, "layers", "layers_low", "layers_high")}
            | {"opposite": cell(row, "opposite", "opposite_low", "opposite_high")}
            | {"finding": "yes" if row["finding"] else f"no: {row['why']}", "p draws": row["p_draws"]}
            | {"units": row["units"]}
        )  # fmt: skip
    return pa.Table.from_pylist(rows)
