"""The strongest flows between layers as a Sankey picture: with Plotly on the page, with Vega on paper."""

from __future__ import annotations

import altair as alt
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from ..look import Width, finish
from ..palette import expert_color
from ..theme import FONT, LIGHT, Theme
from .sankey_layout import OTHER, Box, Ribbon, layout

HEIGHT = 520
_BOX = 0.06
"""Half the width of a box, in columns."""
_STEPS = 24


def box_color(box: Box, theme: Theme) -> str:
    """The colour of an expert's id; other flows recede."""
    return theme.line if box.expert == OTHER else expert_color(box.expert, theme)


def _hover(ribbon: Ribbon, boxes: list[Box]) -> str:
    ends = f"{boxes[ribbon.source].name} → {boxes[ribbon.target].name}"
    if ribbon.lift is None:
        return f"all other flows<br>{ribbon.tokens:,} tokens, {ribbon.share:.1%}"
    return f"{ends}<br>{ribbon.tokens:,} tokens, {ribbon.share:.1%}<br>{ribbon.lift:.1f} × what independent layers give"


def sankey(flows: pa.Table, *, theme: Theme = LIGHT) -> go.Figure:
    """The interactive picture: boxes can be dragged, ribbons tell their numbers.

    Args:
        flows: the view `flows`.
    """
    boxes, ribbons = layout(flows)
    last = max((box.column for box in boxes), default=0)
    picture = go.Sankey(
        arrangement="snap",
        node={
            "label": ["" if box.expert == OTHER else box.name for box in boxes],
            "color": [box_color(box, theme) for box in boxes],
            "x": [min(max(box.column / max(last, 1), 0.001), 0.999) for box in boxes],
            "y": [min(max((box.low + box.high) / 2, 0.001), 0.999) for box in boxes],
            "customdata": [_box_name(box) for box in boxes],
            "hovertemplate": "%{customdata}<br>%{value:,} tokens<extra></extra>",
            "pad": 8,
            "thickness": 12,
            "line": {"width": 0},
        },
        link={
            "source": [ribbon.source for ribbon in ribbons],
            "target": [ribbon.target for ribbon in ribbons],
            "value": [ribbon.tokens for ribbon in ribbons],
            "color": [_faded(box_color(boxes[ribbon.source], theme), ribbon) for ribbon in ribbons],
            "customdata": [_hover(ribbon, boxes) for ribbon in ribbons],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        textfont={"color": theme.text, "size": 11},
    )  # fmt: skip
    return go.Figure(picture, plotly_layout(theme, height=HEIGHT))


def _box_name(box: Box) -> str:
    return f"layer {box.layer}, " + ("all others" if box.expert == OTHER else f"expert {box.expert}")


def _faded(color: str, ribbon: Ribbon) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{0.18 if ribbon.lift is None else 0.45})"


def plotly_layout(theme: Theme, *, height: int) -> go.Layout:
    """The page's colours and type, and no margin to spare."""
    return go.Layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor=theme.background,
        plot_bgcolor=theme.background,
        font={"family": FONT, "color": theme.text, "size": 12},
        hoverlabel={"bgcolor": theme.surface, "bordercolor": theme.line, "font": {"color": theme.text}},
    )


def sankey_still(flows: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """The same picture for exports."""
    return ribbons_still(*layout(flows), theme=theme, width=width)


def ribbons_still(
    boxes: list[Box], ribbons: list[Ribbon], *, theme: Theme, width: Width = "container"
) -> alt.LayerChart:
    """Boxes in columns with ribbons between them, in Vega."""
    rect = pd.DataFrame(
        {
            "x": [box.column - _BOX for box in boxes],
            "x2": [box.column + _BOX for box in boxes],
            "low": [box.low for box in boxes],
            "high": [box.high for box in boxes],
            "middle": [(box.low + box.high) / 2 for box in boxes],
            "name": ["" if box.expert == OTHER else box.name for box in boxes],
            "color": [box_color(box, theme) for box in boxes],
            "tokens": [box.tokens for box in boxes],
        }
    )
    last = max((box.column for box in boxes), default=0)
    layers = {box.column: box.layer for box in boxes}
    names = " : ".join(f"datum.value == {column} ? 'layer {layer}'" for column, layer in layers.items())
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[-0.1, last + 0.35], nice=False),
        axis=alt.Axis(
            values=list(layers), labelExpr=f"{names} : ''" if names else "''", title=None, grid=False,
            domain=False, ticks=False, orient="top",
        ),
    )  # fmt: skip
    y_scale = alt.Scale(domain=[1, 0], nice=False)
    ribbon = (
        alt.Chart(_paths(boxes, ribbons, theme))
        .mark_area()
        .encode(
            x=x,
            y=alt.Y("low:Q", scale=y_scale, axis=None),
            y2=alt.Y2("high:Q"),
            detail=alt.Detail("ribbon:N"),
            color=alt.Color("color:N", scale=None),
            opacity=alt.Opacity("opacity:Q", scale=None),
            tooltip=[
                alt.Tooltip("ends:N", title="flow"),
                alt.Tooltip("tokens:Q", format=",d"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    base = alt.Chart(rect)
    box = base.mark_rect().encode(
        x=x, x2=alt.X2("x2:Q"), y=alt.Y("low:Q", scale=y_scale, axis=None), y2=alt.Y2("high:Q"),
        color=alt.Color("color:N", scale=None),
        tooltip=[alt.Tooltip("name:N", title="layer.expert"), alt.Tooltip("tokens:Q", format=",d")],
    )  # fmt: skip
    text = base.mark_text(align="left", dx=4, fontSize=11, color=theme.text).encode(
        x=alt.X("x2:Q"), y=alt.Y("middle:Q", scale=y_scale, axis=None), text=alt.Text("name:N")
    )
    return finish(alt.LayerChart(layer=[ribbon, box, text]), theme, width=width, height=HEIGHT)


def _paths(boxes: list[Box], ribbons: list[Ribbon], theme: Theme) -> pd.DataFrame:
    """Points along each ribbon, on a curve that is flat at both ends."""
    records = []
    for number, ribbon in enumerate(ribbons):
        source, target = boxes[ribbon.source], boxes[ribbon.target]
        to_thickness = ribbon.tokens / max(target.tokens, 1) * (target.high - target.low)
        start, end = source.column + _BOX, target.column - _BOX
        for step in range(_STEPS + 1):
            t = step / _STEPS
            bend = t * t * (3 - 2 * t)
            low = ribbon.from_low + (ribbon.to_low - ribbon.from_low) * bend
            thick = ribbon.thickness + (to_thickness - ribbon.thickness) * bend
            records.append(
                {
                    "ribbon": number,
                    "x": start + (end - start) * t,
                    "low": low,
                    "high": low + thick,
                    "color": box_color(source if ribbon.colour is None else boxes[ribbon.colour], theme),
                    "opacity": 0.35 if ribbon.lift is None else 0.5,
                    "ends": ribbon.path or f"{source.name} → {target.name}",
                    "tokens": ribbon.tokens,
                    "share": ribbon.share,
                }
            )
    columns = ["ribbon", "x", "low", "high", "color", "opacity", "ends", "tokens", "share"]
    return pd.DataFrame(records, columns=columns)
