"""Paths over a window of layers as parallel categories: with Plotly on the page, with Vega on paper."""

from __future__ import annotations

import altair as alt
import plotly.graph_objects as go
import pyarrow as pa

from ....store.views.structure.path_groups import OTHERS
from ..look import Width
from ..theme import LIGHT, Theme
from .parallel_layout import parallel_layout
from .sankey import HEIGHT, box_color, plotly_layout, ribbons_still


def parallel(paths: pa.Table, *, theme: Theme = LIGHT) -> go.Figure:
    """The interactive picture: columns and boxes can be dragged, a ribbon under the pointer tells its tokens.

    Args:
        paths: the view `path-groups`.
    """
    boxes, _ = parallel_layout(paths)
    rows = paths.to_pylist()
    columns = []
    for column, layer in enumerate(rows[0]["layers"] if rows else []):
        order = [_name(box.expert) for box in boxes if box.column == column]
        values = [_name(row["experts"][column]) for row in rows]
        columns.append(
            {
                "label": f"layer {layer}",
                "values": values,
                "categoryorder": "array",
                "categoryarray": order,
                "ticktext": order,
            }
        )
    color = {_name(box.expert): box_color(box, theme) for box in boxes if box.column == 0}
    picture = go.Parcats(
        dimensions=columns,
        counts=[row["count"] for row in rows],
        line={"color": [color[_name(row["experts"][0])] for row in rows], "shape": "hspline",
              "hovertemplate": "%{count:,} tokens, %{probability:.1%} of those drawn<extra></extra>"},
        hovertemplate="%{count:,} tokens, %{probability:.1%} of those drawn<extra></extra>",
        labelfont={"color": theme.muted, "size": 12},
        tickfont={"color": theme.text, "size": 11},
        arrangement="perpendicular",
    )  # fmt: skip
    made = go.Figure(picture, plotly_layout(theme, height=HEIGHT))
    made.update_layout(margin={"l": 24, "r": 44, "t": 28, "b": 12})
    return made


def _name(expert: int | None) -> str:
    return OTHERS if expert is None or expert < 0 else str(expert)


def parallel_still(paths: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """The same picture for exports."""
    return ribbons_still(*parallel_layout(paths), theme=theme, width=width)
