"""A chart to the page: small, and without the check of every piece of it against the schema of Vega-Lite.

1. `slim` makes its data small: a map of 58 × 256 experts by language is 8 MB of wide numbers and repeated words.
2. The check takes about as long as all else of a page's run. `CHECKS` turns it on: the tests of pages do.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st
from altair.utils import schemapi

# Altair checks pieces as they are made, and the whole once more when it is sent.
schemapi.disable_debug_mode()

CHECKS = False
"""Whether a chart that is not valid Vega-Lite is refused."""


PLACES = ("x", "x2", "y", "y2")
"""Columns that only say where a mark is drawn: half the digits do. What a card shows keeps all of its digits."""


class _Unchecked:
    """A chart as Streamlit asks for it."""

    def __init__(self, chart: alt.TopLevelMixin):
        self.chart = chart

    def to_dict(self) -> dict[str, Any]:
        _slim_layers(self.chart, {})
        return self.chart.to_dict(validate=CHECKS)


def _slim_layers(chart: Any, done: dict[int, pd.DataFrame]) -> None:
    """Put small tables in place of a chart's own; layers that share one go on sharing it."""
    data = getattr(chart, "data", None)
    if isinstance(data, pd.DataFrame):
        chart.data = done.setdefault(id(data), slim(data))
    for part in ("layer", "hconcat", "vconcat", "concat"):
        for one in _parts(chart, part):
            _slim_layers(one, done)


def _parts(chart: Any, name: str) -> list[Any]:
    found = chart._kwds.get(name)
    return found if isinstance(found, list) else []


def slim(data: pd.DataFrame) -> pd.DataFrame:
    """The same table in fewer bytes: whole numbers in the smallest type that holds them, each word once, PLACES as
    float32."""
    narrow: dict[str, Any] = {}
    for name, column in data.items():
        if column.dtype.kind in "iu" and len(column):
            narrow[str(name)] = np.result_type(*map(np.min_scalar_type, (column.min(), column.max())))
        elif isinstance(column.dtype, pd.StringDtype):
            narrow[str(name)] = "category"
        elif name in PLACES and column.dtype == np.float64:
            narrow[str(name)] = np.float32
    return data.astype(narrow)


def draw_chart(chart: Any, *, alt: str, key: str | None = None, **options: Any) -> Any:
    """`st.altair_chart` in the theme that the chart has; `alt` is what a screen reader says of it.

    Args:
        options: `on_select` and `selection_mode` of `st.altair_chart`.
    Returns:
        What `st.altair_chart` returns.
    """
    unchecked: Any = _Unchecked(chart)
    return st.altair_chart(unchecked, theme=None, key=key, alt=alt, **options)
