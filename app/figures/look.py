"""The last touch that every figure gets: its size on the page and the page's colours."""

from __future__ import annotations

from typing import Literal, TypeVar

import altair as alt

from .theme import Theme, vega_config

Width = int | Literal["container"]
AnyChart = TypeVar("AnyChart", alt.Chart, alt.LayerChart)


def finish(chart: AnyChart, theme: Theme, *, width: Width, height: float, title: str = "") -> AnyChart:
    """Size and colours: the width follows the page, the height is that of the plot itself.

    Streamlit would otherwise fit axes and legend into the height and squeeze the plot.
    """
    # Attributes, not `properties` and `configure`: each of those copies the whole chart.
    chart.width = width
    chart.height = round(height)
    if width == "container":
        chart.autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    if title:
        chart.title = title
    chart.config = alt.Config(**vega_config(theme))
    return chart


def depth_title(upwards: bool, pixels: float) -> str:
    """Title of a vertical layer axis: where the model's input is, as read along the axis."""
    way = "input → output" if upwards else "output ← input"
    return f"layer: {way}" if pixels >= 150 else way
