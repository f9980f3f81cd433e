"""Horizontal bars of one share by language, group or tag, with the level that even routing would give."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd
import pyarrow as pa

from ..text import words
from .look import Width, finish
from .palette import language_color
from .theme import LIGHT, Theme

BAR_PIXELS = 17
ENDS = (("low", "95 % from"), ("high", "to"))


def share_bars(
    table: pa.Table,
    column: str,
    *,
    value: str = "share",
    label: str = "share of tokens",
    value_format: str = ".1%",
    theme: Theme = LIGHT,
    hover: Sequence[str] = ("count", "tokens"),
    width: Width = "container",
) -> alt.LayerChart:
    """A bar a value of `column`, largest first; languages in their own colours.

    Args:
        table: columns `column`, `value`, chance and those of `hover`; low and high, where it has them, are drawn as
            intervals.
    """
    data = pd.DataFrame(
        {name: table[name].to_pylist() for name in dict.fromkeys([column, value, "chance", *hover])}
    )
    bounded = {"low", "high"} <= set(table.column_names)
    for name in ("low", "high") if bounded else ():
        data[name] = table[name].to_pylist()
    data["name"] = [words.value_name(column, v) for v in data[column]]
    data["color"] = [language_color(v, theme) if column == "language" else theme.mark for v in data[column]]
    data = data.sort_values([value, "name"], ascending=[False, True])
    base = alt.Chart(data)
    bars = base.mark_bar(height={"band": 0.72}).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=130)),
        x=alt.X(
            f"{value}:Q",
            title=label,
            axis=alt.Axis(format="~%", tickCount=4),
            scale=alt.Scale(zero=True),
        ),
        color=alt.Color("color:N", scale=None),
        tooltip=[
            alt.Tooltip("name:N", title=column),
            alt.Tooltip(f"{value}:Q", title=label, format=value_format.replace(".1", ".2")),
            *([alt.Tooltip(f"{end}:Q", title=text, format=".2%") for end, text in ENDS] if bounded else []),
            alt.Tooltip("chance:Q", title="even routing would give", format=".2%"),
            *(alt.Tooltip(f"{name}:Q", format=",d") for name in hover),
        ],
    )
    marks = [bars]
    if bounded:
        marks.append(
            base.mark_rule(color=theme.text, strokeWidth=1.2).encode(
                y=alt.Y("name:N", sort=None, title=None), x=alt.X("low:Q", title=label), x2=alt.X2("high:Q")
            )
        )
    chance = base.mark_rule(strokeDash=[3, 3], color=theme.text, opacity=0.7).encode(
        x=alt.X("mean(chance):Q")
    )
    height = max(len(data), 2) * BAR_PIXELS
    return finish(alt.LayerChart(layer=[*marks, chance]), theme, width=width, height=height)
