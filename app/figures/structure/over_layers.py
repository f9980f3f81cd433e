"""Lines over the layers, each with its 95 % band and, dashed, what chance would give."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..palette import oklch
from ..theme import LIGHT, Theme

LABELS = ("token", "next token", "position", "layer before")
"""What may explain an expert; a tag comes after them."""


def line_color(number: int, theme: Theme) -> str:
    """Colours that differ in hue and lightness, for a handful of lines."""
    hue = (235, 45, 140, 300, 90, 190)[number % 6]
    return oklch(
        theme.category_lightness[number % 3] if number > 2 else theme.category_lightness[0], 0.11, hue
    )


def explained_lines(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """Share of the first expert that each label explains, by layer.

    Args:
        table: the view `explained`.
    """
    return _lines(table, "label", "share", "explained share of the first expert", theme, width, hover={
        "information": ("mutual information (nats)", ".3f"),
        "expected": ("of unrelated labels (nats)", ".3f"),
        "values": ("different labels", ",d"),
    })  # fmt: skip


def consistency_lines(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """SRP by layer, a line for each window length; dashed, what load alone would give.

    Args:
        table: the view `local-consistency`, of one phase.
    """
    lengths = pa.array([f"m = {m}" for m in table["m"].to_pylist()], pa.string())
    named = table.append_column("window", lengths)
    return _lines(named, "window", "srp", "SRP", theme, width, chance="independent", hover={
        "independent": ("independent tokens, same load", ".3f"),
        "even": ("independent tokens, even load", ".3f"),
        "size_ratio": ("cache size needed, in k", ".2f"),
        "max_over_mean": ("load: busiest ÷ mean", ".2f"),
        "windows": ("windows", ",d"),
        "short": ("prompts too short", ",d"),
    })  # fmt: skip


def information_lines(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """Mutual information of a tag and the experts by layer; dashed, the 95 % quantile of exchanged tags.

    Args:
        table: the view `tag-information`.
    """
    rows = table.append_column("tag", pa.array(["the tag"] * table.num_rows, pa.string()))
    empty = pa.nulls(table.num_rows, pa.float64())
    rows = rows.append_column("low", empty)
    rows = rows.rename_columns(["chance_high" if n == "high" else n for n in rows.column_names])
    rows = rows.append_column("high", empty)
    return _lines(rows, "tag", "information", "mutual information (nats)", theme, width, chance="chance_high",
                  legend=False, hover={
        "chance": ("mean of exchanged tags", ".4f"),
        "chance_high": ("95 % of exchanged tags stay below", ".4f"),
        "q_value": ("q", ".3g"),
        "share": ("share of the entropy", ".1%"),
    })  # fmt: skip


def repeat_lines(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """How often consecutive tokens share one of their first experts; dashed, chance.

    Args:
        table: the view `repeats`.
    """
    depth = pa.array([f"first {d}" for d in table["depth"].to_pylist()], pa.string())
    rows = table.append_column("experts", depth)
    known = table["independent"].null_count < table.num_rows
    return _lines(rows, "experts", "repeats", "consecutive tokens that share an expert", theme, width, legend=False,
                  chance="independent" if known else "even", percent=True, hover={
        "independent": ("independent tokens, same load", ".1%"),
        "even": ("independent tokens, even load", ".1%"),
        "pairs": ("pairs of tokens", ",d"),
    })  # fmt: skip


def _lines(
    table: pa.Table,
    series: str,
    value: str,
    title: str,
    theme: Theme,
    width: Width,
    *,
    hover: Mapping[str, tuple[str, str]],
    chance: str | None = None,
    legend: bool = True,
    percent: bool = False,
    height: int = 280,
) -> alt.LayerChart:
    wanted = dict.fromkeys(["layer", series, value, "low", "high", *hover, *([chance] if chance else [])])
    data = pd.DataFrame({name: table[name].to_pylist() for name in wanted})
    names = list(dict.fromkeys(data[series]))
    color = alt.Color(
        f"{series}:N",
        scale=alt.Scale(domain=names, range=[line_color(i, theme) for i in range(len(names))]),
        sort=names,
        legend=alt.Legend(
            title=None, orient="top", symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2.5
        )
        if legend and len(names) > 1
        else None,
    )
    axis = alt.Axis(format="d", grid=False, tickMinStep=1)
    scale = alt.Scale(zero=False, nice=False)  # else 58 layers are given an axis that ends at 60
    base = alt.Chart(data).encode(
        x=alt.X("layer:Q", title="layer (input at the left)", axis=axis, scale=scale)
    )
    number = alt.Axis(format="%") if percent else alt.Axis()
    y = alt.Y(f"{value}:Q", title=title, scale=alt.Scale(zero=True), axis=number)
    share = ".1%" if percent else ".3f"
    tooltips = [
        alt.Tooltip("layer:Q"),
        *([alt.Tooltip(f"{series}:N", title=" ")] if legend else []),
        alt.Tooltip(f"{value}:Q", title=title, format=share),
        *(
            [alt.Tooltip("low:Q", title="95 % from", format=share), alt.Tooltip("high:Q", title="to", format=share)]
            if table["low"].null_count < table.num_rows
            else []
        ),
        *(alt.Tooltip(f"{name}:Q", title=text, format=form) for name, (text, form) in hover.items()),
    ]  # fmt: skip
    band = base.mark_area(opacity=0.16).encode(
        y=alt.Y("low:Q", title=title), y2=alt.Y2("high:Q"), color=color
    )
    line = base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=26)).encode(
        y=y, color=color, tooltip=tooltips
    )
    marks = [band, line]
    if chance:
        dashed = base.mark_line(strokeDash=[4, 4], strokeWidth=1.2, opacity=0.8)
        marks.insert(1, dashed.encode(y=alt.Y(f"{chance}:Q", title=title), color=color))
    return finish(alt.LayerChart(layer=marks), theme, width=width, height=height)
