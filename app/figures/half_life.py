"""How long consecutive tokens keep an expert, by layer, beside chance."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pyarrow as pa

from .look import Width, finish
from .theme import LIGHT, Theme


def half_life_by_layer(
    table: pa.Table, *, theme: Theme = LIGHT, height: int = 260, width: Width = "container"
) -> alt.LayerChart:
    """The half-life of experts with its 95 % band, and as a dashed line that of independent tokens.

    Args:
        table: the view `expert-half-life`.
    """
    data = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    axis = alt.Axis(format="d", grid=False, tickMinStep=1)
    base = alt.Chart(data).encode(x=alt.X("layer:Q", title="layer (input at the left)", axis=axis))
    scale = alt.Scale(zero=True)
    title = "half-life of an expert (tokens)"
    band = base.mark_area(color=theme.mark, opacity=0.16).encode(
        y=alt.Y("low:Q", title=title, scale=scale), y2=alt.Y2("high:Q")
    )
    line = base.mark_line(color=theme.mark, strokeWidth=1.8, point=alt.OverlayMarkDef(size=24)).encode(
        y=alt.Y("half_life:Q", title=title, scale=scale),
        tooltip=[
            alt.Tooltip("layer:Q"),
            alt.Tooltip("half_life:Q", title="half-life (tokens)", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("chance:Q", title="independent tokens (tokens)", format=".2f"),
            alt.Tooltip("kept:Q", title="kept by the next token", format=".1%"),
            alt.Tooltip("kept_chance:Q", title="kept by chance", format=".1%"),
        ],
    )
    chance = base.mark_line(color=theme.muted, strokeDash=[4, 4]).encode(y=alt.Y("chance:Q", title=title))
    return finish(alt.LayerChart(layer=[band, chance, line]), theme, width=width, height=height)
