"""Figures of decisions: alternatives side by side on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa

from .look import Width, finish
from .structure.over_layers import line_color
from .theme import LIGHT, Theme

ROW = 26
MOST_NAMES = 64
"""More experts side by side have no room for their numbers."""


def alternatives(
    table: pa.Table,
    name: str,
    value: str,
    *,
    label: str,
    chosen: str | None = None,
    reference: float | None = None,
    value_format: str = ".1%",
    theme: Theme = LIGHT,
    width: Width = "container",
) -> alt.LayerChart:
    """One bar an alternative in the order of the table, with its interval; the chosen one in the page's colour.

    Args:
        name, value: columns; low and high are drawn where the table has them.
        reference: a dashed line at this value.
    """
    data = pd.DataFrame({key: table[key].to_pylist() for key in dict.fromkeys([name, value, "low", "high"])
                         if key in table.column_names})  # fmt: skip
    data["color"] = [theme.primary if row == chosen else theme.mark for row in data[name]]
    base = alt.Chart(data)
    y = alt.Y(f"{name}:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=200))
    axis = alt.Axis(format="~%" if "%" in value_format else "~g", tickCount=5)
    x = alt.X(f"{value}:Q", title=label, axis=axis, scale=alt.Scale(zero=True))
    tooltip = [
        alt.Tooltip(f"{name}:N", title="alternative"),
        alt.Tooltip(f"{value}:Q", title=label, format=value_format),
    ]
    layers = [
        base.mark_bar(height={"band": 0.66}).encode(
            y=y, x=x, color=alt.Color("color:N", scale=None), tooltip=tooltip
        ),
    ]
    if "low" in data:
        layers.append(
            base.transform_filter("isValid(datum.low)")
            .mark_rule(color=theme.text, strokeWidth=1.3)
            .encode(y=y, x=alt.X("low:Q", title=label), x2=alt.X2("high:Q"))
        )
    if reference is not None:
        line = alt.Chart(pd.DataFrame({"at": [reference]}))
        layers.append(
            line.mark_rule(strokeDash=[3, 3], color=theme.text, opacity=0.7).encode(x=alt.X("at:Q"))
        )
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=max(2, len(data)) * ROW)


def curves(
    table: pa.Table,
    x: str,
    y: str,
    name: str,
    *,
    x_title: str,
    y_title: str,
    percent: bool = True,
    theme: Theme = LIGHT,
    height: int = 280,
    width: Width = "container",
) -> alt.LayerChart:
    """A line an alternative; low and high are drawn as bands where the table has them."""
    columns = [key for key in (x, y, name, "low", "high") if key in table.column_names]
    data = pd.DataFrame({key: table[key].to_pylist() for key in columns})
    names: Sequence[str] = list(dict.fromkeys(data[name]))
    color = alt.Color(
        f"{name}:N", sort=None,
        scale=alt.Scale(domain=list(names), range=[line_color(at, theme) for at in range(len(names))]),
        legend=alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=2.5, symbolOpacity=1,
                          labelLimit=220),
    )  # fmt: skip
    base = alt.Chart(data)
    whole = pa.types.is_integer(table[x].type)
    ticks = {"format": "d", "tickMinStep": 1} if whole else {}
    scale = alt.Scale(zero=False, nice=False) if whole else alt.Scale()
    across = alt.X(f"{x}:Q", title=x_title, axis=alt.Axis(grid=False, **ticks), scale=scale)
    form = ".1%" if percent else ".4g"
    up = alt.Y(
        f"{y}:Q", title=y_title, axis=alt.Axis(format="%" if percent else "~g"), scale=alt.Scale(zero=True)
    )
    layers = []
    if "low" in data:
        layers.append(
            base.transform_filter("isValid(datum.low)")
            .mark_area(opacity=0.14)
            .encode(x=across, y=alt.Y("low:Q", title=y_title), y2=alt.Y2("high:Q"), color=color)
        )
    layers.append(
        base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=26)).encode(
            x=across, y=up, color=color,
            tooltip=[alt.Tooltip(f"{name}:N", title="alternative"), alt.Tooltip(f"{x}:Q", title=x_title),
                     alt.Tooltip(f"{y}:Q", title=y_title, format=form)],
        )
    )  # fmt: skip
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=height)


def squares(
    table: pa.Table,
    value: str,
    *,
    label: str,
    theme: Theme = LIGHT,
    value_format: str = ".0%",
    side: int = 24,
    across: str | None = None,
    up: str | None = None,
) -> alt.Chart:
    """A matrix with a row and a column a name (`a`, `b`): magnitude from background to ink; `across`, `up`: titles."""
    data = pd.DataFrame({key: table[key].to_pylist() for key in ("a", "b", value)})
    data[["a", "b"]] = data[["a", "b"]].astype(str)
    names = list(dict.fromkeys(data["a"]))
    longest = max(map(len, names), default=0)
    named, side = len(names) <= MOST_NAMES, max(3, min(side, 900 // len(names)))
    chart = alt.Chart(data).mark_rect().encode(
        x=alt.X("b:N", sort=names, title=across,
                axis=alt.Axis(labelAngle=-45 if longest > 3 else 0, ticks=False, domain=False, labels=named)),
        y=alt.Y("a:N", sort=names, title=up, axis=alt.Axis(ticks=False, domain=False, labels=named)),
        color=alt.Color(f"{value}:Q", scale=alt.Scale(range=list(theme.sequential), domainMin=0),
                        legend=alt.Legend(title=label, format=value_format)),
        tooltip=[alt.Tooltip("a:N"), alt.Tooltip("b:N"), alt.Tooltip(f"{value}:Q", title=label, format=value_format)],
    )  # fmt: skip
    return finish(chart, theme, width=max(180, side * len(names)), height=max(120, side * len(names)))


def tree(
    table: pa.Table, clusters: int, *, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """A dendrogram of one layer: experts at the bottom, joined at the height where they are 1 − similarity apart.

    Args:
        table: the view `merge-tree`, of one layer.
        clusters: joints above the cut into so many clusters are drawn paler.
    """
    lines, order = _joints(table.to_pylist())
    kept = len(order) - clusters
    data = pd.DataFrame(lines)
    heights = [float(height) for height in data["y"] if height > 0] or [0.0]
    low, high = min(heights), max(heights)
    # Experts that are hardly alike join near 1: from 0 on, all joints would lie in a strip at the top.
    least = 0.0 if low <= high / 2 else low - 0.4 * (high - low)
    data["y"] = data["y"].clip(lower=least)
    data["color"] = [theme.primary if step < kept else theme.mark for step in data["step"]]
    names = {str(at): str(expert) for at, expert in enumerate(order)}
    across = alt.X(
        "x:Q", title="expert", scale=alt.Scale(domain=[-0.5, len(order) - 0.5], nice=False),
        axis=alt.Axis(values=list(range(len(order))), labelExpr=f"{names}[datum.value]", grid=False, ticks=False,
                      labels=len(order) <= MOST_NAMES,
                      domain=False, labelOverlap=False, labelFontSize=9 if len(order) > 24 else 11),
    )  # fmt: skip
    scale = alt.Scale(zero=False, nice=False, domainMin=least)
    up = alt.Y("y:Q", title="1 − similarity", scale=scale, axis=alt.Axis(format="~g", tickCount=5))
    marks = (
        alt.Chart(data)
        .mark_line(strokeWidth=1.6, strokeJoin="miter")
        .encode(
            x=across, y=up, detail=alt.Detail("step:N"), order=alt.Order("at:Q"),
            color=alt.Color("color:N", scale=None),
            tooltip=[alt.Tooltip("similarity:Q", title="similarity", format=".3f"),
                     alt.Tooltip("experts:Q", title="experts together"), alt.Tooltip("named:N", title="they are")],
        )
    )  # fmt: skip
    return finish(alt.LayerChart(layer=[marks]), theme, width=width, height=240)


def _joints(steps: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Four points a joint, and the experts from left to right, so that no lines cross."""
    experts = len(steps) + 1
    members: dict[int, list[int]] = {expert: [expert] for expert in range(experts)}
    for row in steps:
        members[experts + row["step"]] = members[row["a"]] + members[row["b"]]
    order = members[experts + steps[-1]["step"]] if steps else [0]
    place = {expert: (float(at), 0.0) for at, expert in enumerate(order)}
    lines: list[dict[str, Any]] = []
    for row in steps:
        together = members[experts + row["step"]]
        named = ", ".join(map(str, sorted(together)[:12])) + (", …" if len(together) > 12 else "")
        (xa, ya), (xb, yb), top = place[row["a"]], place[row["b"]], 1 - row["similarity"]
        place[experts + row["step"]] = ((xa + xb) / 2, top)
        for at, (x, y) in enumerate(((xa, ya), (xa, top), (xb, top), (xb, yb))):
            lines.append(
                {
                    "x": x,
                    "y": y,
                    "at": at,
                    **{n: row[n] for n in ("step", "similarity", "experts")},
                    "named": named,
                }
            )
    return lines, order
