"""The strip under two answers: KL at every token, and beneath it which layers chose other experts.

One view with plain numbers on both axes, as in the routing map, so that a click anywhere in a column reports its
position: layers take rows from 0 (input) upwards, the bars of KL stand above them.
"""

from __future__ import annotations

import json

import altair as alt
import pandas as pd
import pyarrow as pa

from ..text import visible
from ..theme import LIGHT, Theme
from .look import Width, depth_title, finish

BAR_PIXELS = 70
ROWS_PIXELS = 150
MOST_LABELS = 70


def steering_strip(
    strip: pa.Table, grid: pa.Table, *, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """Draw the strip.

    Args:
        strip: `Answers.strip`: position, token, kl (null: infinite or unknown), logprob, changed.
        grid: `Answers.grid`: position, stream, layer, changed, experts.
    Returns:
        A chart with the point selection `token` over the field position.
    """
    if not strip.num_rows:
        raise ValueError("a strip needs at least one token")
    routers = sorted(set(zip(grid["stream"].to_pylist(), grid["layer"].to_pylist(), strict=True)))
    step = min(max(ROWS_PIXELS / max(len(routers), 1), 3), 14)
    rows, top = len(routers), BAR_PIXELS / step
    axes = _Axes(strip, routers, top, step, theme)
    pick = alt.selection_point(name="token", fields=["position"], on="click", toggle="false", empty=False)
    layers = [
        *_cells(grid, routers, axes, theme),
        *_bars(strip, rows, top, axes, theme),
        _columns(strip, rows, top, axes, theme, pick),
    ]
    height = (rows + top + 1) * step
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=height)


class _Axes:
    """Both axes, shared by all layers."""

    def __init__(
        self, strip: pa.Table, routers: list[tuple[str, int]], top: float, step: float, theme: Theme
    ) -> None:
        count, rows = strip.num_rows, len(routers)
        tokens = [visible(token)[:14] for token in strip["token"].to_pylist()]
        every = 1 if count <= MOST_LABELS else 10
        self._x = {
            "scale": alt.Scale(domain=[-0.5, count - 0.5], nice=False, zero=False),
            "axis": alt.Axis(
                title=None, values=list(range(0, count, every)), grid=False, ticks=False, domain=False,
                labelExpr=f"{json.dumps(tokens)}[datum.value]" if every == 1 else "datum.value",
                labelAngle=-90 if every == 1 else 0,
                labelLimit=90, labelFontSize=11,
            ),
        }  # fmt: skip
        shown = max(1, round(11 / step))
        names = [str(layer) if stream == "decoder" else f"{stream} {layer}" for stream, layer in routers]
        self._y = {
            "scale": alt.Scale(domain=[-0.5, rows + top + 0.5], nice=False, zero=False),
            "axis": alt.Axis(
                title=depth_title(True, rows * step), values=list(range(0, rows, shown)), grid=False, ticks=False,
                domain=False, labelExpr=f"{json.dumps(names)}[datum.value]", titleAnchor="start", labelFontSize=10,
            ),
        }  # fmt: skip

    def x(self, field: str) -> alt.X:
        return alt.X(f"{field}:Q", **self._x)

    def y(self, field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", **self._y)


def _cells(grid: pa.Table, routers: list[tuple[str, int]], axes: _Axes, theme: Theme) -> list[alt.Chart]:
    if not grid.num_rows:
        return []
    row_of = {router: row for row, router in enumerate(routers)}
    data = grid.to_pandas()
    data["row"] = [row_of[pair] for pair in zip(data["stream"], data["layer"], strict=True)]
    data["routing"] = ["other experts" if changed else "the same experts" for changed in data["changed"]]
    data["token"] = [visible(token) for token in data["token"]]
    x, row = data["position"], data["row"]
    data = data.assign(x=x - 0.46, x2=x + 0.46, y=row - 0.44, y2=row + 0.44)
    colour = alt.Color(
        "changed:N", scale=alt.Scale(domain=[False, True], range=[theme.surface, theme.steered]), legend=None
    )
    tooltip = [
        alt.Tooltip("position:Q"), alt.Tooltip("token:N"), alt.Tooltip("layer:Q"), alt.Tooltip("routing:N"),
        alt.Tooltip("experts:N", title="experts here"),
    ]  # fmt: skip
    mark = alt.Chart(data).mark_rect()
    return [mark.encode(x=axes.x("x"), x2="x2:Q", y=axes.y("y"), y2="y2:Q", color=colour, tooltip=tooltip)]


def _bars(strip: pa.Table, rows: int, top: float, axes: _Axes, theme: Theme) -> list[alt.Chart]:
    data = strip.to_pandas()
    most = data["kl"].max() if data["kl"].notna().any() else 0.0
    share = data["kl"].fillna(0.0) / (most or 1.0)
    base = rows + 0.3
    x = data["position"]
    data = data.assign(x=x - 0.4, x2=x + 0.4, y=base, y2=base + share * (top - 1.2))
    data["token"] = [visible(token) for token in data["token"]]
    bars = (
        alt.Chart(data)
        .mark_rect(color=theme.steered)
        .encode(
            x=axes.x("x"), x2="x2:Q", y=axes.y("y"), y2="y2:Q",
            tooltip=[
                alt.Tooltip("position:Q"), alt.Tooltip("token:N"), alt.Tooltip("kl:Q", title="KL, nats", format=".3g"),
                alt.Tooltip("changed:Q", title="layers changed"),
            ],
        )
    )  # fmt: skip
    note = pd.DataFrame(
        {"x": [-0.5], "y": [base + top - 1.0], "text": [f"KL(base || steered), up to {most:.3g} nats"]}
    )
    text = alt.Chart(note).mark_text(align="left", baseline="bottom", fontSize=11, color=theme.muted)
    return [bars, text.encode(x=axes.x("x"), y=axes.y("y"), text="text:N")]


def _columns(
    strip: pa.Table, rows: int, top: float, axes: _Axes, theme: Theme, pick: alt.Parameter
) -> alt.Chart:
    """Clear columns over everything: they take the click and frame the chosen token."""
    position = strip["position"].to_pandas()
    data = pd.DataFrame(
        {"position": position, "token": [visible(t) for t in strip["token"].to_pylist()],
         "kl": strip["kl"].to_pandas(), "changed": strip["changed"].to_pandas(),
         "x": position - 0.5, "x2": position + 0.5, "y": -0.5, "y2": rows + top - 0.9}
    )  # fmt: skip
    return (
        alt.Chart(data)
        .mark_rect(fillOpacity=0.001, fill=theme.background, cursor="pointer")
        .encode(
            x=axes.x("x"), x2="x2:Q", y=axes.y("y"), y2="y2:Q",
            stroke=alt.condition(pick, alt.value(theme.selected), alt.value(None)), strokeWidth=alt.value(1.5),
            tooltip=[
                alt.Tooltip("position:Q"), alt.Tooltip("token:N"), alt.Tooltip("kl:Q", title="KL, nats", format=".3g"),
                alt.Tooltip("changed:Q", title="layers changed"),
            ],
        )
        .add_params(pick)
    )  # fmt: skip
