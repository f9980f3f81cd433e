"""Small routing maps side by side on one colour scale: one for each value of a column.

All maps stand in one view on shared quantitative axes (a facet would not stretch with the page): map number
m is shifted by its place in the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from ..theme import LIGHT, Theme
from .look import Width, finish
from .routing_layout import lay_out
from .routing_map import Hover, card, cell_selection, color_scale, map_legend, outline

WIDTH_IN_PIXELS = 1040
ROW_PIXELS = (2.5, 9.0)
TITLE_PIXELS = 26


def small_maps(
    table: pa.Table,
    value: str,
    column: str,
    names: Mapping[str | None, str],
    *,
    theme: Theme = LIGHT,
    label: str = "",
    value_format: str = ".1%",
    hover: Sequence[Hover] = (),
    reverse: bool = False,
    width: Width = "container",
) -> alt.LayerChart:
    """Draw a map for each of `names`.

    Args:
        table: as for `routing_map`, with `column`; rows whose value is not in `names` are left out.
        names: value of `column` → title of its map, in the order of the maps.
    Returns:
        A chart with the point selection `cell` over the fields stream, layer and expert.
    """
    order = {name: number for number, name in enumerate(names)}
    map_C = np.array([order.get(v, -1) for v in table[column].to_pylist()])
    table, map_C = table.filter(pa.array(map_C >= 0)), map_C[map_C >= 0]
    layout = lay_out(table, value, reverse=reverse)
    rows, ranks = len(layout.routers), layout.num_ranks
    across = min(len(names), 2 if ranks > 128 else 3 if ranks > 64 else 4)
    down = math.ceil(len(names) / across)
    step = min(max(110 / rows, ROW_PIXELS[0]), ROW_PIXELS[1])
    pitch_x, pitch_y = ranks * 1.06, rows + TITLE_PIXELS / step

    x_C = layout.rank_C + map_C % across * pitch_x
    y_C = layout.row_C + (down - 1 - map_C // across) * pitch_y
    data = {
        "stream": [layout.routers[row][0] for row in layout.row_C],
        "layer": [layout.routers[row][1] for row in layout.row_C],
        "expert": layout.expert_C, "value": layout.value_C,
        "of": [names[v] for v in table[column].to_pylist()],
        "x": x_C - 0.5, "x2": x_C + 0.5, "y": y_C - 0.5, "y2": y_C + 0.5,
    } | {line.column: table[line.column].to_numpy(zero_copy_only=False) for line in hover}  # fmt: skip
    several = len({stream for stream, _ in layout.routers}) > 1
    ends = {"x": [-0.5, across * pitch_x - ranks * 0.06 - 0.5], "y": [-0.5, down * pitch_y - 0.5]}
    x, y = _axis(alt.X, "x", ends["x"]), _axis(alt.Y, "y", ends["y"])
    cell = cell_selection(None)
    placed = pd.DataFrame(data)
    cells = (
        alt.Chart(placed)
        .mark_rect()
        .encode(
            x=x, x2="x2:Q", y=y, y2="y2:Q",
            color=alt.Color(
                "value:Q",
                scale=color_scale(layout, theme, diverging=False),
                legend=map_legend(label, value_format),
            ),
            tooltip=[alt.Tooltip("of:N", title=column), *card(hover, several_streams=several)],
        )
        .add_params(cell)
    )  # fmt: skip
    number = np.arange(len(names))
    titles = pd.DataFrame(
        {
            "x": number % across * pitch_x - 0.5,
            "y": (down - 1 - number // across) * pitch_y + rows - 0.5,
            "text": list(names.values()),
        }
    )
    text = alt.Chart(titles).mark_text(align="left", baseline="bottom", dy=-4, fontSize=12, color=theme.text)
    frame = alt.Chart(titles.assign(x2=titles["x"] + ranks, y0=titles["y"] - rows)).mark_rect(
        fillOpacity=0, stroke=theme.line, strokeWidth=1
    )
    chart = alt.LayerChart(
        layer=[
            frame.encode(x=x, x2="x2:Q", y=_axis(alt.Y, "y0", ends["y"]), y2="y:Q"),
            cells,
            outline(placed, x, y, cell, theme),
            text.encode(x=x, y=y, text="text:N"),
        ]
    )
    return finish(chart, theme, width=width, height=down * pitch_y * step)


def _axis(channel: Any, field: str, domain: list[float]) -> Any:
    return channel(f"{field}:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=None)
