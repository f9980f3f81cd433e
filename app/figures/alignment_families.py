"""Divergence by layer in small charts: one for each family of languages, or each class, the other lines in grey."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa

from ..text import words
from .alignment import UNKNOWN, common_domain, end_labels, layer_axis
from .palette import family_of, language_color
from .theme import LIGHT, Theme, vega_config

WIDTH_ALONE, WIDTH_BESIDE, HEIGHT = 400, 250, 150
"""Pixels of a small chart, without the names at the ends of its lines."""


def family_lines(
    table: pa.Table,
    value: str,
    *,
    label: str,
    theme: Theme = LIGHT,
    classes: tuple[str, Mapping[str, str | None]] | None = None,
    across: int = 3,
) -> alt.ConcatChart:
    """Small charts on one scale, the family nearest to the pivot first.

    Args:
        table: columns language, layer, `value`, low, high (null: unknown).
        classes: name and language → class, where the charts are of classes.
        across: how many stand side by side.
    """
    data = pd.DataFrame(
        {name: table[name].to_pylist() for name in ("language", "layer", value, "low", "high")}
    )
    data["name"] = [words.language_name(code) for code in data["language"]]
    of = {
        code: (classes[1].get(code) or UNKNOWN) if classes else family_of(code)
        for code in set(data["language"])
    }
    data["family"] = data["language"].map(of.__getitem__)
    domain = common_domain([table], value)
    values: dict[str, list[float]] = {}
    for family, number in zip(data["family"].tolist(), data[value].tolist(), strict=True):
        values.setdefault(family, []).append(math.inf if number is None or math.isnan(number) else number)
    order = sorted(values, key=lambda family: _mean(values[family]))
    data["shade"] = [language_color(code, theme) for code in data["language"]]
    charts = [
        _small(data, value, family, label, domain, theme, first=number % across == 0)
        for number, family in enumerate(order)
    ]
    width = WIDTH_ALONE if across == 1 else WIDTH_BESIDE
    charts = [chart.properties(width=width) for chart in charts]
    return alt.concat(*charts, columns=across, spacing=24).configure(**vega_config(theme))


def _mean(values: list[float]) -> float:
    """Mean of what is known; infinite where nothing is."""
    known = [value for value in values if value < math.inf]
    return sum(known) / len(known) if known else math.inf


def _small(
    data: pd.DataFrame,
    value: str,
    family: str,
    label: str,
    domain: tuple[float, float],
    theme: Theme,
    *,
    first: bool,
) -> alt.LayerChart:
    """The lines of one family over those of all; `first` of its row, which names the vertical axis."""
    own = pd.DataFrame(data[data["family"] == family])
    scale = alt.Scale(domain=list(domain), zero=False, clamp=True)
    named: dict[str, Any] = {"title": label if first else None, "scale": scale, "axis": alt.Axis(tickCount=4)}
    y, low = alt.Y(f"{value}:Q", **named), alt.Y("low:Q", **named)
    x = layer_axis(sorted(set(data["layer"]))).title("layer")
    color = alt.Color("shade:N", scale=None)
    others = alt.Chart(data).mark_line(strokeWidth=0.8, opacity=0.22, color=theme.muted, tooltip=None)
    lines = alt.Chart(own).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=18))
    tooltip: list[Any] = [
        alt.Tooltip("name:N", title="language"), alt.Tooltip("layer:Q", format="d"),
        alt.Tooltip(f"{value}:Q", title=label, format=".4f"),
        alt.Tooltip("low:Q", title="95 % from", format=".4f"), alt.Tooltip("high:Q", title="to", format=".4f"),
    ]  # fmt: skip
    bands = alt.Chart(own).mark_area(opacity=0.14, tooltip=None)
    parts: list[Any] = [
        others.encode(x=x, y=y, detail=alt.Detail("language:N")),
        bands.encode(x=x, y=low, y2=alt.Y2("high:Q"), color=color, detail=alt.Detail("language:N")),
        lines.encode(x=x, y=y, color=color, detail=alt.Detail("language:N"), tooltip=tooltip),
    ]
    if len(set(data["layer"])) > 1:
        labels = end_labels(own, value, HEIGHT, domain, color, theme)
        parts += [label.encode(y=alt.Y("at:Q", **named)) for label in labels]
    return alt.LayerChart(layer=parts).properties(height=HEIGHT, title=family)
