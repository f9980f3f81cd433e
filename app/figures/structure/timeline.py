"""Use of the experts along an axis that is no text: stacked, or a line for each with its band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..palette import expert_color
from ..theme import LIGHT, Theme

MEASURES: Mapping[str, str] = {
    "use": "part of all choices",
    "share": "share of tokens",
    "weight": "mean gate weight",
}
OTHERS = "others"
LOG_FROM = 50.0
"""Largest over smallest number from which a positive axis is logarithmic."""
HEIGHT = 300


def timeline_chart(
    table: pa.Table,
    *,
    by: str,
    measure: str = "use",
    stacked: bool = True,
    theme: Theme = LIGHT,
    width: Width = "container",
) -> alt.LayerChart:
    """The experts of one layer along the axis.

    Args:
        table: the view `timeline`, one layer of it.
        measure: a key of MEASURES.
        stacked: areas on top of one another (bars where the axis is of names); else a line for each expert, for
            `share` with its 95 % interval and the chance level.
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row["label"] = OTHERS if row["expert"] is None else f"expert {row['expert']}"
    rows = rows if stacked else [row for row in rows if row["label"] != OTHERS]
    experts = sorted({row["expert"] for row in rows} - {None})
    names = [f"expert {e}" for e in experts] + [OTHERS] * any(row["label"] == OTHERS for row in rows)
    colors = [expert_color(e, theme) for e in experts] + [theme.missing] * (len(names) - len(experts))
    rows = [row | {"rank": names.index(row["label"])} for row in rows]
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=_axis(rows, by),
        color=alt.Color(
            "label:N", title=None, scale=alt.Scale(domain=names, range=colors),
            legend=alt.Legend(orient="top", columns=_columns(width), symbolType="square", symbolOpacity=1),
        ),
        tooltip=_hover(by),
    )  # fmt: skip
    marks = _stack(base, rows, measure, theme) if stacked else _lines(base, rows, measure, theme)
    return finish(alt.LayerChart(layer=marks), theme, width=width, height=HEIGHT)


def _columns(width: Width) -> int:
    """Names of experts beside one another in the legend."""
    return 6 if width == "container" else max(int(width) // 100, 2)


def _axis(rows: Sequence[Mapping[str, Any]], by: str) -> alt.X:
    kind = rows[0]["axis"] if rows else "number"
    title = "position of the token in its prompt" if kind == "position" else by
    if kind == "order":
        order = list(dict.fromkeys(row["x"] for row in sorted(rows, key=lambda row: row["at"])))
        return alt.X("x:O", title=title, sort=order, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    if kind == "date":
        return alt.X("x:T", title=title, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    low, high = (end((row["at"] for row in rows), default=0.0) for end in (min, max))
    if kind == "number" and low > 0 and high / low >= LOG_FROM:
        return alt.X("at:Q", title=f"{title} (logarithmic)", scale=alt.Scale(type="log", nice=False))
    return alt.X("at:Q", title=title, scale=alt.Scale(nice=False, zero=False))


def _hover(by: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("label:N", title="expert"),
        alt.Tooltip("x:N", title=by),
        alt.Tooltip("use:Q", title="part of all choices", format=".1%"),
        alt.Tooltip("share:Q", title="share of tokens", format=".1%"),
        alt.Tooltip("low:Q", title="95 % interval from", format=".1%"),
        alt.Tooltip("high:Q", title="to", format=".1%"),
        alt.Tooltip("chance:Q", title="chance", format=".1%"),
        alt.Tooltip("weight:Q", title="mean gate weight", format=".3f"),
        alt.Tooltip("tokens:Q", format=",d"),
        alt.Tooltip("prompts:Q", format=",d"),
    ]


def _value(measure: str, **more: Any) -> alt.Y:
    shown = ".2f" if measure == "weight" else "%"
    return alt.Y(
        f"{measure}:Q",
        title=MEASURES[measure],
        axis=alt.Axis(format=shown),
        scale=alt.Scale(nice=False),
        **more,
    )


def _stack(base: alt.Chart, rows: Sequence[Mapping[str, Any]], measure: str, theme: Theme) -> list[alt.Chart]:
    names = any(row["axis"] == "order" for row in rows) or len({row["at"] for row in rows}) < 2
    mark = base.mark_bar() if names else base.mark_area(line=False, opacity=1, interpolate="step")
    value = _value(measure, stack="zero")
    if measure == "share":  # the shares of a place sum to the experts that its tokens use
        value = alt.Y("share:Q", title="experts per token", stack="zero", scale=alt.Scale(nice=False))
    encoded = mark.encode(y=value, order=alt.Order("rank:Q"))
    return [encoded.encode(stroke=alt.StrokeValue(theme.background), strokeWidth=alt.StrokeWidthValue(0.5))]


def _lines(base: alt.Chart, rows: Sequence[Mapping[str, Any]], measure: str, theme: Theme) -> list[alt.Chart]:
    marks: list[alt.Chart] = []
    if measure == "share" and any(row["low"] is not None for row in rows):
        band = base.mark_area(opacity=0.18).encode(
            y=alt.Y("low:Q", title=MEASURES[measure]), y2=alt.Y2("high:Q")
        )
        marks.append(band.transform_filter("isValid(datum.low)"))
    marks.append(base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=18)).encode(y=_value(measure)))
    chance = next((row["chance"] for row in rows if row["chance"] is not None), None)
    if measure == "share" and chance is not None:
        rule = alt.Chart(pd.DataFrame({"chance": [chance]})).mark_rule(strokeDash=[4, 3])
        marks.append(rule.encode(y=alt.Y("chance:Q"), color=alt.ColorValue(theme.muted)))
    return marks
