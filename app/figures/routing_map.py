"""The routing map: layers upwards, experts across, one cell a router's expert, with marginal bars.

One Vega-Lite view holds the cells and both margins on shared quantitative axes, so it stretches with the
page, a click reports a cell, and rows may differ in their number of experts. 8 × 32 and 58 × 256 both fit.

1. `routing_layout.lay_out` gives every (stream, layer) a row and every cell a rank within its row;
2. `routing_map` draws cells, the top margin (mean over layers) and the right margin (one number a layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from .look import Width, finish
from .routing_layout import RIGHT_SHARE, Layout, PlotFrame, Sort, lay_out, routers_of
from .theme import LIGHT, Theme

MAX_CELLS_WITH_GAPS = 2_000
MAX_CELLS_WITH_EVEN_STEPS = 3_000
"""Up to so many cells the colour runs evenly from the least to the largest value; of thousands the largest would leave
all others pale, so their colours change at percentiles."""
DIGITS = 5
"""Significant digits of numbers that the browser gets: a map of 14,848 cells is a third smaller for it."""

Steps = Literal["even", "percentile"]


@dataclass(frozen=True, kw_only=True)
class Hover:
    """A line of the card that shows when the pointer rests on a cell."""

    column: str
    title: str
    format: str = ""
    """A d3 format such as `.1%`; empty for text and plain numbers."""


def routing_map(
    table: pa.Table,
    value: str,
    *,
    theme: Theme = LIGHT,
    title: str = "",
    label: str = "",
    value_format: str = ".1%",
    hover: Sequence[Hover] = (),
    sort: Sort = "id",
    reverse: bool = False,
    diverging: bool = False,
    domain: float | None = None,
    steps: Steps | None = None,
    layer_margin: tuple[str, pa.Table] | None = None,
    selected: dict[str, Any] | None = None,
    width: Width = "container",
) -> alt.LayerChart:
    """Draw the routing map.

    Args:
        table: columns layer, expert, `value` (null: unknown), optionally stream and the `hover` columns.
        value: the column that the colour shows; sequential from 0, or `diverging` around 0.
        label: what the colour means, with its unit, for the legend.
        domain: largest absolute value of the colour scale; the data's own where None.
        steps: whether colours change evenly or at percentiles of the values; by the number of cells where None.
        layer_margin: title and table (layer, value, optionally stream) of the bars at the right.
        selected: `{"stream", "layer", "expert"}` of the cell that is outlined at first.
        width: pixels, or `container` to stretch with the page.
    Returns:
        A chart with the point selection `cell` over the fields stream, layer and expert.
    """
    if not table.num_rows:
        raise ValueError("a routing map needs at least one cell")
    layout = lay_out(table, value, sort=sort, reverse=reverse)
    frame = PlotFrame(layout=layout, right=layout.num_ranks * RIGHT_SHARE if layer_margin else 0.0)
    # A difference keeps even steps: percentiles would paint its noise as strongly as what stands out.
    steps = steps or ("even" if diverging else default_steps(table.num_rows))
    legend = map_legend(label + (", colours by percentile" if steps == "percentile" else ""), value_format)
    scale = color_scale(layout, theme, diverging=diverging, domain=domain, steps=steps)
    color = alt.Color("value:Q", scale=scale, legend=legend)
    layers: list[Any] = _cells(table, frame, theme, color, hover, cell_selection(selected))
    layers += _top_margin(frame, theme, value_format, diverging)
    if layer_margin:
        layers += _right_margin(frame, theme, *layer_margin)
    chart = alt.LayerChart(layer=layers)
    return finish(chart, theme, width=width, height=frame.height, title=title)


def cell_selection(selected: dict[str, Any] | None) -> alt.Parameter:
    """The point selection `cell`; `selected` is what it holds at first."""
    fields = ["stream", "layer", "expert"]
    first: Any = [selected] if selected else alt.Undefined
    return alt.selection_point(
        name="cell", fields=fields, on="click", toggle="false", empty=False, value=first
    )


def outline(
    data: pd.DataFrame, x: alt.X, y: alt.Y, cell: alt.Parameter, theme: Theme, color: str | None = None
) -> alt.Chart:
    """A frame around the selected cell, over its neighbours; in the colour of selections where none is given."""
    mark = alt.Chart(data).mark_rect(
        fillOpacity=0, stroke=color or theme.selected, strokeWidth=2.5, tooltip=None
    )
    return mark.encode(x=x, x2=alt.X2("x2:Q"), y=y, y2=alt.Y2("y2:Q")).transform_filter(cell)


def map_legend(label: str, value_format: str) -> alt.Legend:
    """The colour scale as a slim bar above the map."""
    signed = f"datum.value == 0 ? '0' : format(datum.value, '{value_format}')"
    return alt.Legend(
        title=label, orient="top", direction="horizontal", gradientLength=180, gradientThickness=8,
        format=value_format, tickCount=4, offset=6, titleLimit=600, labelSeparation=6,
        labelExpr=signed if value_format.startswith("+") else alt.Undefined,
    )  # fmt: skip


def _cells(
    table: pa.Table,
    frame: PlotFrame,
    theme: Theme,
    color: alt.Color,
    hover: Sequence[Hover],
    cell: alt.Parameter,
) -> list[alt.Chart]:
    layout = frame.layout
    streams, layers = zip(*(layout.routers[row] for row in layout.row_C), strict=True)
    data = {
        "stream": streams, "layer": layers, "expert": layout.expert_C, "value": rounded(layout.value_C),
        "x": layout.rank_C - 0.5, "x2": layout.rank_C + 0.5,
        "y": layout.row_C - 0.5, "y2": layout.row_C + 0.5,
    } | {line.column: rounded(table[line.column].to_numpy(zero_copy_only=False)) for line in hover}  # fmt: skip
    gaps = len(layout.value_C) <= MAX_CELLS_WITH_GAPS
    frame_data = pd.DataFrame(data)
    cells = (
        alt.Chart(frame_data)
        .mark_rect()
        .encode(
            x=frame.x("x"),
            x2=alt.X2("x2:Q"),
            y=frame.y("y"),
            y2=alt.Y2("y2:Q"),
            color=color,
            stroke=alt.StrokeValue(theme.background),
            strokeWidth=alt.StrokeWidthValue(1 if gaps else 0),
            tooltip=card(hover, several_streams=len(set(streams)) > 1),
        )
        .add_params(cell)
    )
    # Of thousands of cells the browser would look for the chosen one in every row; the page rings it without.
    few = len(layout.value_C) <= MAX_CELLS_WITH_EVEN_STEPS
    return [cells, *([outline(frame_data, frame.x("x"), frame.y("y"), cell, theme)] if few else [])]


def rounded(values: np.ndarray) -> np.ndarray:
    """Floats to DIGITS significant digits; anything else as it is. Tables and downloads keep every digit."""
    if values.dtype.kind != "f":
        return values
    sizes = np.floor(
        np.log10(np.abs(values), out=np.zeros(len(values)), where=(values != 0) & np.isfinite(values))
    )
    units = 10.0 ** (DIGITS - 1 - sizes)
    return np.round(values * units) / units


def default_steps(cells: int) -> Steps:
    """How the colours of a map of so many cells change, where nobody chose."""
    return "even" if cells <= MAX_CELLS_WITH_EVEN_STEPS else "percentile"


def color_scale(
    layout: Layout, theme: Theme, *, diverging: bool, domain: float | None = None, steps: Steps = "even"
) -> alt.Scale:
    """Sequential from 0 or diverging around 0, up to `domain` or the largest absolute value."""
    colours = theme.diverging if diverging else theme.sequential
    stops = color_stops(layout.value_C, len(colours), diverging=diverging, domain=domain, steps=steps)
    return alt.Scale(domain=stops, range=list(colours), interpolate="lab", clamp=True)


def color_stops(
    value_C: np.ndarray, colours: int, *, diverging: bool, domain: float | None = None, steps: Steps = "even"
) -> list[float]:
    """The value of each colour of a scale, rising, from the values of all cells (NaN: not known)."""
    known = np.abs(value_C[np.isfinite(value_C)])
    top = domain or (float(known.max()) if len(known) else 0.0) or 1.0
    arm = colours // 2 if diverging else colours - 1
    even = np.linspace(0, top, arm + 1)
    stops = even if steps == "even" or not len(known) else _percentile_stops(known, even)
    return [float(stop) for stop in ([*(-stops[:0:-1]), *stops] if diverging else stops)]


def _percentile_stops(known: np.ndarray, even: np.ndarray) -> np.ndarray:
    """0, percentiles that part the absolute values into equal shares, and the largest; strictly rising."""
    inner = np.quantile(known, np.linspace(0, 1, len(even))[1:-1])
    stops = np.concatenate([[0.0], inner, [even[-1]]])
    # Where many values are equal, as many zeros, their percentiles are one: a scale needs them apart.
    least = even[-1] * 1e-4
    for at in range(1, len(stops) - 1):
        stops[at] = max(stops[at], stops[at - 1] + least)
    return np.minimum(stops, np.append(even[-1] * (1 - 1e-4 * np.arange(len(stops) - 1, 0, -1)), even[-1]))


def card(hover: Sequence[Hover], *, several_streams: bool) -> list[alt.Tooltip]:
    """The lines that show when the pointer rests on a cell."""
    lines = [alt.Tooltip("layer:Q"), alt.Tooltip("expert:Q")]
    if several_streams:
        lines.insert(0, alt.Tooltip("stream:N"))
    for line in hover:
        kind: Any = "quantitative" if line.format else "nominal"
        form: Any = line.format or alt.Undefined
        lines.append(alt.Tooltip(field=line.column, type=kind, title=line.title, format=form))
    return lines


def _top_margin(frame: PlotFrame, theme: Theme, value_format: str, diverging: bool) -> list[alt.Chart]:
    layout = frame.layout
    known_C = np.isfinite(layout.value_C)
    value_C = np.abs(layout.value_C) if diverging else layout.value_C
    rows_R = np.bincount(layout.rank_C[known_C], minlength=layout.num_ranks)
    sum_R = np.bincount(layout.rank_C[known_C], weights=value_C[known_C], minlength=layout.num_ranks)
    mean_R = np.divide(sum_R, rows_R, out=np.zeros_like(sum_R), where=rows_R > 0)
    rank_R = np.arange(layout.num_ranks)
    base, top = frame.cells_end[1], mean_R.max() or 1.0
    bars = {"x": rank_R - 0.42, "x2": rank_R + 0.42, "y": base, "y2": base + mean_R / top * frame.top}
    name = "mean |difference| over layers" if diverging else "mean over layers"
    chart = _bars(bars | {"rank": rank_R, "mean": mean_R}, frame, theme).encode(
        tooltip=[
            alt.Tooltip("rank:Q", title="expert" if layout.by_id else "place"),
            alt.Tooltip("mean:Q", title=name, format=value_format.lstrip("+")),
        ]
    )
    return [chart, _note(name, frame, theme, x=frame.ranks - 0.5, y=base + frame.top, align="right")]


def _right_margin(frame: PlotFrame, theme: Theme, title: str, table: pa.Table) -> list[alt.Chart]:
    value_of = dict(zip(routers_of(table), table["value"].to_pylist(), strict=True))
    rows = [(row, r[1], value_of.get(r)) for row, r in enumerate(frame.layout.routers)]
    known = [(row, layer, value) for row, layer, value in rows if value is not None]
    if not known:
        return []
    row_R, layer_R, value_R = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    base, top = frame.cells_end[0], value_R.max() or 1.0
    bars = {"x": base, "x2": base + value_R / top * frame.right, "y": row_R - 0.38, "y2": row_R + 0.38}
    chart = _bars(bars | {"layer": layer_R, "value": value_R}, frame, theme).encode(
        tooltip=[alt.Tooltip("layer:Q"), alt.Tooltip("value:Q", title=title, format=".3f")]
    )
    # In two lines and from the margin's left on, so that it does not reach over the bars at the top.
    note = title.replace(" ÷", "\n÷")
    return [chart, _note(note, frame, theme, x=base, y=frame.rows - 0.5, align="left")]


def _bars(columns: dict[str, Any], frame: PlotFrame, theme: Theme) -> alt.Chart:
    mark = alt.Chart(pd.DataFrame(columns)).mark_rect(color=theme.mark, opacity=0.75)
    return mark.encode(x=frame.x("x"), x2=alt.X2("x2:Q"), y=frame.y("y"), y2=alt.Y2("y2:Q"))


def _note(
    text: str, frame: PlotFrame, theme: Theme, *, x: float, y: float, align: Literal["left", "right"]
) -> alt.Chart:
    point = pd.DataFrame({"x": [x], "y": [y], "text": [text]})
    mark = alt.Chart(point).mark_text(
        align=align,
        dy=-5 - 11 * text.count("\n"),
        baseline="bottom",
        fontSize=10,
        lineHeight=11,
        lineBreak="\n",
        color=theme.muted,
    )
    return mark.encode(x=frame.x("x"), y=frame.y("y"), text=alt.Text("text:N"))
