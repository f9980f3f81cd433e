"""The switchboard as a figure for exports: the routing map with a sign on every cell that is steered."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd
import pyarrow as pa

from ...store.schema import Cell
from .look import Width
from .routing_layout import lay_out
from .routing_map import routing_map
from .theme import LIGHT, Theme

SIGNS = {"off": "✕", "on": "✓", "zero": "○", "low": "–", "up": "▲", "down": "▼"}


def switchboard_map(
    table: pa.Table,
    states: Mapping[Cell, str],
    *,
    label: str,
    theme: Theme = LIGHT,
    diverging: bool = False,
    value_format: str = ".1%",
    width: Width = "container",
) -> alt.LayerChart:
    """Draw it.

    Args:
        table: stream, layer, expert, value (null: not recorded), as the board shows them.
        states: cell → a key of SIGNS; cells that the table lacks are left out.
    """
    chart = routing_map(
        table, "value", theme=theme, label=label, diverging=diverging, value_format=value_format, width=width
    )
    layout = lay_out(table, "value")
    row_of = {router: row for row, router in enumerate(layout.routers)}
    places = [
        {"x": cell.expert, "y": row_of[cell.router], "sign": SIGNS[state], "fill": state == "on"}
        for cell, state in states.items()
        if cell.router in row_of
    ]
    if not places:
        return chart
    data = pd.DataFrame(places)
    data = data.assign(x1=data.x - 0.5, x2=data.x + 0.5, y1=data.y - 0.5, y2=data.y + 0.5)
    fill = alt.condition("datum.fill", alt.value(theme.steered), alt.value(theme.background))
    ink = alt.condition("datum.fill", alt.value(theme.background), alt.value(theme.steered))
    squares = alt.Chart(data).mark_rect(stroke=theme.steered, strokeWidth=1.5)
    signs = alt.Chart(data).mark_text(fontSize=11, fontWeight="bold")
    chart.layer += [
        squares.encode(x=alt.X("x1:Q"), x2=alt.X2("x2:Q"), y=alt.Y("y1:Q"), y2=alt.Y2("y2:Q"), fill=fill),
        signs.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), text=alt.Text("sign:N"), color=ink),
    ]
    return chart
