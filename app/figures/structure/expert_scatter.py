"""The map of all experts: WebGL points on the page, the same points with Vega on paper."""

from __future__ import annotations

import html
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from ...text import words
from ..look import Width, finish
from ..palette import language_color, oklch
from ..theme import LIGHT, Theme
from .sankey import plotly_layout

Colour = Literal["layer", "load", "tag"]
HEIGHT = 560


def _value_color(column: str, value: str, number: int, theme: Theme) -> str:
    if column == "language":
        return language_color(value, theme)
    return oklch(theme.category_lightness[number % 3], 0.1, number * 137.5)


def _colors(table: pa.Table, colour: Colour, column: str, theme: Theme) -> list[str]:
    if colour == "tag":
        most = table["most"].to_pylist()
        names = {value: i for i, value in enumerate(dict.fromkeys(sorted(set(most))))}
        return [_value_color(column, value, names[value], theme) for value in most]
    if colour == "layer":
        layer = np.asarray(table["layer"], float)
        place = (layer - layer.min()) / max(np.ptp(layer), 1)
    else:
        load = np.log2(np.maximum(np.asarray(table["load"]), 1 / 16))
        place = np.clip((load + 3) / 6, 0, 1)
    return [_scale(0.18 + 0.82 * p, theme) for p in place]


MOST_NAMED = 24
"""Values that a legend names; of more, the cards tell."""


def _named(table: pa.Table, colour: Colour, column: str, theme: Theme) -> dict[str, str]:
    """Names and colours of the legend; empty where it would name no value, or too many."""
    values = sorted(set(table["most"].to_pylist())) if colour == "tag" else []
    if len(values) > MOST_NAMED:
        return {}
    return {
        words.value_name(column, value): _value_color(column, value, i, theme)
        for i, value in enumerate(values)
    }


def _scale(place: float, theme: Theme) -> str:
    """A colour of the sequential scale, without its end that is the background."""
    stops = theme.sequential
    at = place * (len(stops) - 1)
    low = min(int(at), len(stops) - 2)
    ends = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops[low : low + 2]]
    mixed = [round(a + (b - a) * (at - low)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _sizes(table: pa.Table) -> np.ndarray:
    """Smaller points for the many: 10,000 of them must leave some background."""
    return np.full(table.num_rows, 9.0 if table.num_rows < 1000 else 5.0)


def expert_scatter(table: pa.Table, *, by: str, colour: Colour = "layer", theme: Theme = LIGHT) -> go.Figure:
    """Every expert as a point that tells its numbers; a click or, from the bar above, a box or lasso selects.

    Args:
        table: the view `expert-map`.
        by: what it was placed by.
        colour: the layer, the load against an even one (from 1/8 to 8 times), or the value used most ("tag").
    """
    told = [_told(row, by) for row in table.to_pylist()]
    cells = [[row["stream"], row["layer"], row["expert"]] for row in table.to_pylist()]
    points = go.Scattergl(
        x=np.asarray(table["x"]),
        y=np.asarray(table["y"]),
        mode="markers",
        marker={"color": _colors(table, colour, by, theme), "size": _sizes(table), "opacity": 0.85,
                "line": {"width": 0}},
        text=told,
        customdata=cells,
        hovertemplate="%{text}<extra></extra>",
        unselected={"marker": {"opacity": 0.4}},
    )  # fmt: skip
    named = _named(table, colour, by, theme)
    keys = [
        go.Scattergl(
            x=[None], y=[None], mode="markers", name=html.escape(name), marker={"color": color, "size": 9}
        )
        for name, color in named.items()
    ]
    points.showlegend = False
    made = go.Figure([points, *keys], plotly_layout(theme, height=HEIGHT))
    axis = {
        "showgrid": False,
        "zeroline": False,
        "showticklabels": False,
        "ticks": "",
        "linecolor": theme.line,
    }
    made.update_xaxes(title={"text": "first axis", "font": {"color": theme.muted, "size": 12}}, **axis)
    made.update_yaxes(title={"text": "second axis", "font": {"color": theme.muted, "size": 12}}, **axis)
    legend = {
        "itemclick": False,
        "itemdoubleclick": False,
        "font": {"color": theme.text, "size": 11},
        "y": 0.95,
    }
    # With "select" Streamlit hears of boxes alone, and a click would open nothing.
    made.update_layout(
        dragmode="pan", margin={"l": 36, "r": 8, "t": 8, "b": 36}, showlegend=bool(named), legend=legend
    )
    return made


def _told(row: dict[str, Any], by: str) -> str:
    most = html.escape(words.value_name(by, row["most"]))
    return (
        f"layer {row['layer']}, expert {row['expert']}<br>"
        f"{row['share']:.1%} of tokens, {row['load']:.2f} × even<br>"
        f"most for {most}: {row['most_share']:.1%}, {row['lift']:.1f} × its mean"
    )


def expert_scatter_still(
    table: pa.Table, *, by: str, colour: Colour = "layer", theme: Theme = LIGHT, width: Width = "container"
) -> alt.Chart:
    """The same points for exports."""
    columns = ["layer", "expert", "x", "y", "share", "load", "most", "most_share", "lift"]
    data = pd.DataFrame({name: table[name].to_pylist() for name in columns})
    named = _named(table, colour, by, theme)
    data["color"] = _colors(table, colour, by, theme)
    data["most"] = [words.value_name(by, value) for value in data["most"]]
    axis = alt.Axis(labels=False, ticks=False, grid=False)
    chart = (
        alt.Chart(data)
        .mark_circle(size=float(_sizes(table)[0]) ** 2 if table.num_rows else 25, opacity=0.85)
        .encode(
            x=alt.X("x:Q", title="first axis", axis=axis),
            y=alt.Y("y:Q", title="second axis", axis=axis),
            color=_still_color(named),
            tooltip=[
                alt.Tooltip("layer:Q"),
                alt.Tooltip("expert:Q"),
                alt.Tooltip("share:Q", title="share of tokens", format=".1%"),
                alt.Tooltip("most:N", title="most for"),
            ],
        )
    )
    return finish(chart, theme, width=width, height=HEIGHT)


def _still_color(named: dict[str, str]) -> alt.Color:
    if not named:
        return alt.Color("color:N", scale=None)
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    return alt.Color("most:N", scale=scale, title="most for", legend=alt.Legend(columns=1, symbolOpacity=1))
