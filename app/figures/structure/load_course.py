"""Load over the course of a run: stretches of prompts across, layers upwards."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..theme import LIGHT, Theme

MOST_NUMBERS = 200
"""Cells up to which each one tells its number."""


def drift_map(
    table: pa.Table, *, value: str = "max_over_mean", label: str = "busiest ÷ mean", theme: Theme = LIGHT,
    width: Width = "container",
) -> alt.LayerChart:  # fmt: skip
    """One cell for each layer and stretch of the run, with its number where there is room.

    Args:
        table: the view `load-drift`; its rows of the whole run are left out.
    """
    rows = [row for row in table.to_pylist() if row["batch"] is not None]
    data = pd.DataFrame(rows, columns=pd.Index(table.column_names))
    layers = sorted({row["layer"] for row in rows}, reverse=True)
    base = alt.Chart(data).encode(
        x=alt.X("batch:O", title="stretch of the run", axis=alt.Axis(labelAngle=0, format="d")),
        y=alt.Y("layer:O", sort=layers, title="layer: input → output", axis=alt.Axis(format="d")),
    )
    tooltips = [
        alt.Tooltip("layer:Q"),
        alt.Tooltip("batch:Q", title="stretch"),
        alt.Tooltip("prompts:Q", format=",d"),
        alt.Tooltip("tokens:Q", format=",d"),
        alt.Tooltip("max_over_mean:Q", title="busiest ÷ mean", format=".2f"),
        alt.Tooltip("gini:Q", title="Gini", format=".2f"),
        alt.Tooltip("dead:Q", title="dead experts", format=",d"),
        alt.Tooltip("near_dead:Q", title="near-dead", format=",d"),
        alt.Tooltip("moved:Q", title="moved against the whole run", format=".1%"),
    ]
    cells = base.mark_rect().encode(
        color=alt.Color(
            f"{value}:Q",
            title=label,
            scale=alt.Scale(range=list(theme.sequential), zero=value != "max_over_mean"),
            legend=alt.Legend(orient="top", gradientLength=180, gradientThickness=8),
        ),
        tooltip=tooltips,
    )
    marks: list[alt.Chart] = [cells]
    if 0 < len(rows) <= MOST_NUMBERS:
        values = [row[value] for row in rows]
        middle = (min(values) + max(values)) / 2
        ink = alt.condition(f"datum.{value} > {middle}", alt.value(theme.background), alt.value(theme.text))
        form = ".0%" if value == "moved" else ".1f"
        marks.append(base.mark_text(fontSize=10).encode(text=alt.Text(f"{value}:Q", format=form), color=ink))
    height = min(max(len(layers) * 18, 60), 640)
    return finish(alt.LayerChart(layer=marks), theme, width=width, height=height)
