"""Small routing maps side by side on one colour scale: one for each value of a column.

All maps stand in one view on shared quantitative axes (a facet would not stretch with the page): map number
m is shifted by its place in the grid. Hover and click are shared: the cell under the pointer and the chosen one are
outlined in every map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from .look import Width, finish
from .routing_layout import lay_out
from .routing_map import Hover, card, cell_selection, color_scale, map_legend, outline
from .theme import LIGHT, Theme

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
        A chart with the point selections `cell` (by click) and `hover` over the fields stream, layer and expert.
    """
    order = {name: number for number, name in enumerate(names)}
    map_C = np.array([order.get(v, -1) for v in table[column].to_pylist()])
    table, map_C = table.filter(pa.array(map_C >= 0)), map_C[map_C >= 0]
    layout = lay_out(table, value, reverse=reverse)
    grid = _Grid(len(names), len(layout.routers), layout.num_ranks)
    left_C, bottom_C = grid.corner(map_C)
    x_C, y_C = left_C + layout.rank_C, bottom_C + layout.row_C
    placed = pd.DataFrame({
        "stream": [layout.routers[row][0] for row in layout.row_C],
        "layer": [layout.routers[row][1] for row in layout.row_C],
        "expert": layout.expert_C, "value": layout.value_C,
        "of": [names[v] for v in table[column].to_pylist()],
        "x": x_C, "x2": x_C + 1, "y": y_C, "y2": y_C + 1,
    } | {line.column: table[line.column].to_numpy(zero_copy_only=False) for line in hover})  # fmt: skip
    several = len({stream for stream, _ in layout.routers}) > 1
    cell, hovered = cell_selection(None), _hovered()
    cells = (
        alt.Chart(placed)
        .mark_rect()
        .encode(
            x=grid.x("x"), x2=alt.X2("x2:Q"), y=grid.y("y"), y2=alt.Y2("y2:Q"),
            color=alt.Color(
                "value:Q",
                scale=color_scale(layout, theme, diverging=False),
                legend=map_legend(f"{label}; {_reading(reverse)}", value_format),
            ),
            tooltip=[alt.Tooltip("of:N", title=column), *card(hover, several_streams=several)],
        )
        .add_params(cell, hovered)
    )  # fmt: skip
    frames, titles = _frames(grid, list(names.values()), theme)
    x, y = grid.x("x"), grid.y("y")
    outlines = [
        outline(placed, x, y, one, theme, color) for one, color in ((cell, None), (hovered, theme.text))
    ]
    chart = alt.LayerChart(layer=[frames, cells, *outlines, titles])
    return finish(chart, theme, width=width, height=grid.height)


def _hovered() -> alt.Parameter:
    """The cell under the pointer, in every map."""
    fields = ["stream", "layer", "expert"]
    return alt.selection_point(name="hover", fields=fields, on="pointerover", clear="pointerout", empty=False)


def _reading(reverse: bool) -> str:
    """How a map without axes is read."""
    return f"each map: layers {'downwards' if reverse else 'upwards'} from the input, experts across by id"


class _Grid:
    """Places of maps of `rows` × `ranks` cells in one picture, from the upper left corner on; a cell is 1 × 1."""

    def __init__(self, maps: int, rows: int, ranks: int) -> None:
        self.rows, self.ranks = rows, ranks
        self.across = min(maps, 2 if ranks > 128 else 3 if ranks > 64 else 4)
        self.down = math.ceil(maps / self.across)
        step = min(max(110 / rows, ROW_PIXELS[0]), ROW_PIXELS[1])
        self.pitch_x, self.pitch_y = ranks * 1.06, rows + TITLE_PIXELS / step
        self.height = self.down * self.pitch_y * step

    def corner(self, map_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of the lower left corner of the maps with these numbers."""
        x_X = map_X % self.across * self.pitch_x - 0.5
        return x_X, (self.down - 1 - map_X // self.across) * self.pitch_y - 0.5

    def x(self, field: str) -> Any:
        return _axis(alt.X, field, [-0.5, self.across * self.pitch_x - self.ranks * 0.06 - 0.5])

    def y(self, field: str) -> Any:
        return _axis(alt.Y, field, [-0.5, self.down * self.pitch_y - 0.5])


def _frames(grid: _Grid, names: list[str], theme: Theme) -> tuple[alt.Chart, alt.Chart]:
    """A line around each map, and its title above it."""
    x_M, y_M = grid.corner(np.arange(len(names)))
    places = pd.DataFrame({"x": x_M, "x2": x_M + grid.ranks, "y0": y_M, "y": y_M + grid.rows, "text": names})
    frames = alt.Chart(places).mark_rect(fillOpacity=0, stroke=theme.line, strokeWidth=1)
    titles = alt.Chart(places).mark_text(
        align="left", baseline="bottom", dy=-4, fontSize=12, color=theme.text
    )
    return (
        frames.encode(x=grid.x("x"), x2=alt.X2("x2:Q"), y=grid.y("y0"), y2=alt.Y2("y:Q")),
        titles.encode(x=grid.x("x"), y=grid.y("y"), text=alt.Text("text:N")),
    )


def _axis(channel: Any, field: str, domain: list[float]) -> Any:
    return channel(f"{field}:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=None)
