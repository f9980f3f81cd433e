"""Evaluations beside one another: the effect of each with its interval, over the range of its random controls."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pyarrow as pa

from .look import Width, finish
from .steer_effects import TICKS, change_axis, format_of, label_of
from .theme import LIGHT, Theme

ROW_PIXELS = 30


def beside_chart(
    table: pa.Table, measure: str, *, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """A row an evaluation.

    Args:
        table: as `compare_evaluations` gives it.
    """
    data = pd.DataFrame(table.to_pylist())
    title = label_of(measure)
    numbers = change_axis(measure, tickCount=TICKS)
    y = alt.Y("evaluation:N", title=None, sort=list(data["evaluation"]),
              axis=alt.Axis(labelLimit=320, ticks=False, domain=False))  # fmt: skip
    form = format_of(measure)
    tooltip = [
        alt.Tooltip("evaluation:N"), alt.Tooltip("change:Q", format=form),
        alt.Tooltip("low:Q", title="95 % from", format=form), alt.Tooltip("high:Q", title="to", format=form),
        alt.Tooltip("random_low:Q", title="random experts from", format=form),
        alt.Tooltip("random_high:Q", title="to", format=form), alt.Tooltip("finding:N"),
    ]  # fmt: skip
    base = alt.Chart(data).encode(y=y, tooltip=tooltip)
    zero = (
        alt.Chart(pd.DataFrame({"zero": [0]}))
        .mark_rule(color=theme.line)
        .encode(x=alt.X("zero:Q", title=title, axis=numbers))
    )
    band = base.mark_bar(color=theme.mark, opacity=0.3, height=14).encode(
        x=alt.X("random_low:Q", title=title, axis=numbers), x2=alt.X2("random_high:Q")
    )
    rule = base.mark_rule(color=theme.steered, strokeWidth=3).encode(
        x=alt.X("low:Q", title=title, axis=numbers), x2=alt.X2("high:Q")
    )
    point = base.mark_point(size=60, filled=True, opacity=1, color=theme.steered).encode(
        x=alt.X("change:Q", title=title, axis=numbers, scale=alt.Scale(zero=True))
    )
    chart = alt.LayerChart(layer=[zero, band, rule, point])
    return finish(chart, theme, width=width, height=ROW_PIXELS * len(data))
