"""How the page pairs and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...shell.comparing import snippet, view_of
from ...shell.page_context import PageContext


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the boxes on top of the page say."""

    pair_by: str
    align: str
    by: str | None

    def view(self, context: PageContext, name: str, **params: Any) -> pa.Table:
        return view_of(context, self.pair_by, self.align, name, **params)

    def most_flipped(self, context: PageContext, layers: Sequence[int]) -> int:
        """Which of these layers has most flips, by its place: what a reader wants to see first."""
        table = self.view(context, "agreement")
        rates = dict(zip(table["layer"].to_pylist(), table["flip_rate"].to_pylist(), strict=True))
        return max(range(len(layers)), key=lambda at: rates.get(layers[at]) or 0.0, default=0)

    def python(self, context: PageContext, name: str, **params: Any) -> str:
        return snippet(context, self.pair_by, self.align, name, **params)
