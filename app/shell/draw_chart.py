"""A chart to the page, without the check of every piece of it against the schema of Vega-Lite.

The check takes about as long as all else of a page's run. `CHECKS` turns it on: the tests of pages do.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import streamlit as st
from altair.utils import schemapi

# Altair checks pieces as they are made, and the whole once more when it is sent.
schemapi.disable_debug_mode()

CHECKS = False
"""Whether a chart that is not valid Vega-Lite is refused."""


class _Unchecked:
    """A chart as Streamlit asks for it."""

    def __init__(self, chart: alt.TopLevelMixin):
        self.chart = chart

    def to_dict(self) -> dict[str, Any]:
        return self.chart.to_dict(validate=CHECKS)


def draw_chart(chart: Any, *, alt: str, key: str | None = None, **options: Any) -> Any:
    """`st.altair_chart` in the theme that the chart has; `alt` is what a screen reader says of it.

    Args:
        options: `on_select` and `selection_mode` of `st.altair_chart`.
    Returns:
        What `st.altair_chart` returns.
    """
    unchecked: Any = _Unchecked(chart)
    return st.altair_chart(unchecked, theme=None, key=key, alt=alt, **options)
