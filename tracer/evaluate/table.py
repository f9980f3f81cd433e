"""An evaluation as a table to read: one row an effect, with its controls beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from .finding import PROFILE

Row = Mapping[str, Any]


def with_controls(effects: pa.Table, measures: Iterable[str] | None = None) -> pa.Table:
    """The profile's effects, each with its controls in the same row.

    Args:
        effects: as `Evaluation.effects` gives them.
        measures: only these; all if left out.
    Returns:
        measure, group, base, steered, change, low, high, then the controls: draws, random_low and random_high (the
        lowest and highest end of any draw's interval), layers and opposite (change, with _low and _high), at last
        finding, why, p_draws, units. A control that was not run is null.
    """
    wanted = None if measures is None else set(measures)
    rows = [row for row in effects.to_pylist() if wanted is None or row["measure"] in wanted]
    controls: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        controls.setdefault((row["measure"], row["group"]), []).append(row)
    own = [row for row in rows if row["kind"] == PROFILE]
    return pa.Table.from_pylist([_beside(row, controls[row["measure"], row["group"]]) for row in own], BESIDE)


def _beside(row: Row, family: list[Row]) -> dict[str, Any]:
    draws = [other for other in family if other["kind"] == "random"]
    found: dict[str, Any] = {name: row[name] for name in BESIDE.names if name in row}
    found |= {"draws": len(draws)}
    found["random_low"] = min((draw["low"] for draw in draws), default=None)
    found["random_high"] = max((draw["high"] for draw in draws), default=None)
    for kind in ("layers", "opposite"):
        other = next((one for one in family if one["kind"] == kind), None)
        if other is not None:
            found |= {kind: other["change"], f"{kind}_low": other["low"], f"{kind}_high": other["high"]}
    return found


_NUMBERS = ("base", "steered", "change", "low", "high")
_CONTROLS = ("layers", "layers_low", "layers_high", "opposite", "opposite_low", "opposite_high")
BESIDE = pa.schema(
    [
        ("measure", pa.string()),
        ("group", pa.string()),
        *((name, pa.float64()) for name in _NUMBERS),
        ("draws", pa.int64()),
        ("random_low", pa.float64()),
        ("random_high", pa.float64()),
        *((name, pa.float64()) for name in _CONTROLS),
        ("finding", pa.bool_()),
        ("why", pa.string()),
        ("p_draws", pa.float64()),
        ("units", pa.int64()),
    ]
)
