"""Figures of specialised experts: how many of each kind by layer, and which they are."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa

from .look import Width, depth_title, finish
from .routing_layout import every_expert, every_layer
from .routing_map import MAX_CELLS_WITH_GAPS, cell_selection
from .theme import LIGHT, Theme

KINDS = ("language-specific", "multilingual", "shared", "task")
NONE = "none"
MAP_PIXELS, ROW_PIXELS = 480, (7.0, 24.0)


def _shades(theme: Theme) -> dict[str, str]:
    """One shade a kind, the same in both figures; the task's is of another hue."""
    shades = (theme.sequential[2], theme.sequential[3], theme.sequential[4], theme.diverging[-2])
    return dict(zip(KINDS, shades, strict=True))


def kinds_by_layer(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.Chart:
    """How many experts of each layer are specialised, by kind.

    Args:
        table: of the view `specialised-counts`, rows of one tau.
    """
    data = pd.DataFrame({name: table[name].to_pylist() for name in ("layer", "kind", "experts", "of")})
    shades = _shades(theme)
    chart = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X(
                "layer:O", title="layer (input at the left)", axis=alt.Axis(labelAngle=0, labelOverlap=True)
            ),
            y=alt.Y("experts:Q", title="specialised experts", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color(
                "kind:N", title=None, scale=alt.Scale(domain=list(shades), range=list(shades.values()))
            ),
            order=alt.Order("kind:N"),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("kind:N"),
                alt.Tooltip("experts:Q"),
                alt.Tooltip("of:Q", title="of"),
            ],
        )
    )
    return finish(chart, theme, width=width, height=220)


def kinds_map(grid: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.Chart:
    """Layers × experts, each specialised expert in the shade of its kind.

    Args:
        grid: columns layer, stream, expert, kind (`none` where it is not specialised), languages, delta; one
            row a cell.
    Returns:
        A chart with the point selection `cell` over the fields stream, layer and expert.
    """
    names = ("layer", "stream", "expert", "kind", "languages", "delta")
    data = pd.DataFrame({name: grid[name].to_pylist() for name in names})
    rows = len(set(grid["layer"].to_pylist()))
    step = min(max(MAP_PIXELS / rows, ROW_PIXELS[0]), ROW_PIXELS[1])
    shades = _shades(theme) | {NONE: theme.surface}
    scale = alt.Scale(domain=list(shades), range=list(shades.values()))
    legend = alt.Legend(
        title=None, orient="top", direction="horizontal", values=list(KINDS), symbolType="square"
    )
    experts, layers = (sorted(set(grid[name].to_pylist())) for name in ("expert", "layer"))
    across = experts[:: every_expert(len(experts))]
    down = [layer for layer in layers if layer % every_layer(len(layers)) == 0]
    gaps = 1 if grid.num_rows <= MAX_CELLS_WITH_GAPS else 0
    axis: dict[str, Any] = {"ticks": False, "domain": False, "labelOverlap": True}
    cell = cell_selection(None)
    chart = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X("expert:O", title="expert",
                    axis=alt.Axis(labelAngle=0, titleAnchor="start", values=across, **axis)),
            y=alt.Y("layer:O", sort="descending",
                    axis=alt.Axis(title=depth_title(True, rows * step), values=down, **axis)),
            color=alt.Color("kind:N", scale=scale, legend=legend),
            stroke=alt.condition(cell, alt.value(theme.selected), alt.value(theme.background), empty=False),
            strokeWidth=alt.condition(cell, alt.value(2), alt.value(gaps), empty=False),
            tooltip=[
                alt.Tooltip("layer:O"), alt.Tooltip("expert:O"), alt.Tooltip("kind:N"),
                alt.Tooltip("languages:N", title="for"),
                alt.Tooltip("delta:Q", title="largest difference, percentage points", format="+.1%"),
            ],
        )
        .add_params(cell)
    )  # fmt: skip
    return finish(chart, theme, width=width, height=rows * step)
