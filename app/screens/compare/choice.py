"""How the page pairs and splits."""

from __future__ import annotations

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

    def python(self, context: PageContext, name: str, **params: Any) -> str:
        return snippet(context, self.pair_by, self.align, name, **params)
