"""The strip under two answers: KL at every token of the prompt and of an answer, and beneath it which layers chose
other experts.

One view with plain numbers on both axes, as in the routing map, so that a click anywhere in a column reports which
one: layers take rows from 0 (input) upwards, the bars of KL stand above them, the prompt left of a line.
"""

from __future__ import annotations

import json

import altair as alt
import pandas as pd
import pyarrow as pa

from ..text.graphemes import characters
from ..text.literal import visible
from .look import Width, depth_title, finish
from .theme import LIGHT, Theme

BAR_PIXELS = 70
ROWS_PIXELS = 150
LINE_PIXELS = 16
"""Height of a line of words above the bars."""
MOST_LABELS = 70
MOST_PROMPT = 120
"""Prompt tokens that are drawn, the last ones: an answer beside thousands of columns would be lost."""


def steering_strip(
    strip: pa.Table, grid: pa.Table, *, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """Draw the strip.

    Args:
        strip: `Answers.strip`: column, phase, position, token, kl (null: infinite or unknown), changed, changes.
        grid: `Answers.grid`: column, stream, layer, changed.
    Returns:
        A chart with the point selection `token` over the field column.
    """
    if not strip.num_rows:
        raise ValueError("a strip needs at least one token")
    routers = sorted(set(zip(grid["stream"].to_pylist(), grid["layer"].to_pylist(), strict=True)))
    prompt = strip["phase"].to_pylist().count("prompt")
    first = max(prompt - MOST_PROMPT, 0)
    data = strip.to_pandas().iloc[first:]
    data["token"] = [visible(text) for text in characters(list(data["token"]))]
    data["place"] = data["phase"] + " token " + data["position"].astype(str)
    cells = grid.select(["column", "stream", "layer", "changed"]).to_pandas()
    cells = cells[cells["column"] >= first]
    place = _Place(first, prompt, strip.num_rows, routers)
    axes = _Axes(data, place)
    pick = alt.selection_point(name="token", fields=["column"], on="click", toggle="false", empty=False)
    layers = [
        *_cells(cells, place, axes, theme),
        *_bars(data, place, axes, theme),
        *_border(place, axes, theme),
        _columns(data, place, axes, theme, pick),
    ]
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=place.height * place.step)


class _Place:
    """Where things stand, in columns across and rows upwards."""

    def __init__(self, first: int, prompt: int, end: int, routers: list[tuple[str, int]]) -> None:
        self.first, self.prompt, self.end = first, prompt, end
        """The first column that is drawn, the first of the answer, and the one after the last."""
        self.routers = routers
        self.rows = len(routers)
        self.step = min(max(ROWS_PIXELS / max(self.rows, 1), 3), 14)
        """Pixels of a row."""
        self.top = self.rows + BAR_PIXELS / self.step
        self.line = LINE_PIXELS / self.step
        self.height = self.top + self.line * (2 if prompt else 1)


class _Axes:
    """Both axes, shared by all layers."""

    def __init__(self, data: pd.DataFrame, place: _Place) -> None:
        named = len(data) <= MOST_LABELS
        labels = [token[:14] for token in data["token"]] if named else data["position"].astype(str).tolist()
        ticks = data["column"] if named else data["column"][data["position"] % 10 == 0]
        self._x = {
            "scale": alt.Scale(domain=[place.first - 0.5, place.end - 0.5], nice=False, zero=False),
            "axis": alt.Axis(
                title=None, values=ticks.tolist(), grid=False, ticks=False, domain=False,
                labelExpr=f"{json.dumps(labels)}[datum.value - {place.first}]",
                labelAngle=-90 if named else 0,
                labelLimit=90, labelFontSize=11,
            ),
        }  # fmt: skip
        shown = max(1, round(11 / place.step))
        names = [
            str(layer) if stream == "decoder" else f"{stream} {layer}" for stream, layer in place.routers
        ]
        self._y = {
            "scale": alt.Scale(domain=[-0.5, place.height - 0.5], nice=False, zero=False),
            "axis": alt.Axis(
                title=depth_title(True, place.rows * place.step), values=list(range(0, place.rows, shown)),
                grid=False, ticks=False, domain=False, labelExpr=f"{json.dumps(names)}[datum.value]",
                titleAnchor="start", labelFontSize=10,
            ),
        }  # fmt: skip

    def x(self, field: str) -> alt.X:
        return alt.X(f"{field}:Q", **self._x)

    def y(self, field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", **self._y)


def _cells(cells: pd.DataFrame, place: _Place, axes: _Axes, theme: Theme) -> list[alt.Chart]:
    if not len(cells):
        return []
    row_of = {router: row for row, router in enumerate(place.routers)}
    row = pd.Series([row_of[pair] for pair in zip(cells["stream"], cells["layer"], strict=True)], cells.index)
    x = cells["column"]
    data = cells.assign(x=x - 0.46, x2=x + 0.46, y=row - 0.44, y2=row + 0.44)
    colour = alt.Color(
        "changed:N", scale=alt.Scale(domain=[False, True], range=[theme.surface, theme.steered]), legend=None
    )
    mark = alt.Chart(data).mark_rect()
    return [mark.encode(x=axes.x("x"), x2=alt.X2("x2:Q"), y=axes.y("y"), y2=alt.Y2("y2:Q"), color=colour)]


def _bars(data: pd.DataFrame, place: _Place, axes: _Axes, theme: Theme) -> list[alt.Chart]:
    most = max((float(kl) for kl in data["kl"].dropna()), default=0.0)
    share = data["kl"].fillna(0.0) / (most or 1.0)
    base, x = place.rows + 0.3, data["column"]
    boxes = data.assign(x=x - 0.4, x2=x + 0.4, y=base, y2=base + share * (place.top - base - 0.9))
    bars = alt.Chart(boxes).mark_rect(color=theme.steered)
    words = f"KL(base || steered), up to {most:.3g} nats"
    return [
        bars.encode(x=axes.x("x"), x2=alt.X2("x2:Q"), y=axes.y("y"), y2=alt.Y2("y2:Q")),
        _words(place.first - 0.5, place.top - 0.5, words, axes, theme.muted),
    ]


def _border(place: _Place, axes: _Axes, theme: Theme) -> list[alt.Chart]:
    """The line between prompt and answer, with their names at its head."""
    if not place.prompt:
        return []
    at, y = place.prompt - 0.5, place.top - 0.5 + place.line
    line = pd.DataFrame({"x": [at], "y": [-0.5], "y2": [y + place.line]})
    rule = alt.Chart(line).mark_rule(color=theme.text, strokeWidth=1.5)
    prompt = f"prompt, its last {place.prompt - place.first} tokens" if place.first else "prompt"
    names = [_words(place.first - 0.5, y, prompt, axes, theme.text)]
    if place.prompt < place.end:
        names.append(_words(at, y, "answer", axes, theme.text, dx=5))
    return [rule.encode(x=axes.x("x"), y=axes.y("y"), y2=alt.Y2("y2:Q")), *names]


def _words(x: float, y: float, text: str, axes: _Axes, colour: str, *, dx: int = 0) -> alt.Chart:
    mark = alt.Chart(pd.DataFrame({"x": [x], "y": [y], "text": [text]})).mark_text(
        align="left", baseline="bottom", fontSize=11, color=colour, dx=dx
    )
    return mark.encode(x=axes.x("x"), y=axes.y("y"), text=alt.Text("text:N"))


def _columns(data: pd.DataFrame, place: _Place, axes: _Axes, theme: Theme, pick: alt.Parameter) -> alt.Chart:
    """Clear columns over everything: they tell of a token, take the click and frame the chosen one."""
    x = data["column"]
    data = data.assign(x=x - 0.5, x2=x + 0.5, y=-0.5, y2=place.top - 0.5)
    return (
        alt.Chart(data)
        .mark_rect(fillOpacity=0.001, fill=theme.background, cursor="pointer")
        .encode(
            x=axes.x("x"), x2=alt.X2("x2:Q"), y=axes.y("y"), y2=alt.Y2("y2:Q"),
            stroke=alt.condition(pick, alt.value(theme.selected), alt.value(None)),
            strokeWidth=alt.StrokeWidthValue(1.5),
            tooltip=[
                alt.Tooltip("place:N", title="which"), alt.Tooltip("token:N"),
                alt.Tooltip("kl:Q", title="KL, nats", format=".3g"),
                alt.Tooltip("changed:Q", title="layers changed"), alt.Tooltip("changes:N", title="experts"),
            ],
        )
        .add_params(pick)
    )  # fmt: skip
