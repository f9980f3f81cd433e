"""Which experts of a contrast count as standing out: a threshold on q, on |score| or on |effect|."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

ThresholdKind = Literal["q", "score", "effect"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A limit on one column of the `resonance` view."""

    kind: ThresholdKind = "q"
    value: float = 0.05

    def mask(self, table: pa.Table) -> np.ndarray:
        """(rows,) bool: q at most, or |score| or |effect| at least, the limit."""
        column = np.asarray(table[self.kind], dtype=np.float64)
        return column <= self.value if self.kind == "q" else np.abs(column) >= self.value

    def __str__(self) -> str:
        return f"q ≤ {self.value:g}" if self.kind == "q" else f"|{self.kind}| ≥ {self.value:g}"


def survivors(table: pa.Table, threshold: Threshold) -> pa.Table:
    """The rows that stand out, in their order."""
    return table.filter(pa.array(threshold.mask(table)))


def only_survivors(table: pa.Table, threshold: Threshold) -> pa.Table:
    """The table with the scores of all other experts set to 0, as a map shows them."""
    score = np.where(threshold.mask(table), np.asarray(table["score"]), 0.0)
    return table.set_column(table.schema.get_field_index("score"), "score", pa.array(score))
