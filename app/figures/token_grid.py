"""The token × layer grid: the first expert of every token at every layer, in the expert's colour."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from ..text.graphemes import lone_bytes
from .look import Width, depth_title, finish
from .palette import expert_color
from .routing_map import cell_selection, outline
from .theme import LIGHT, Theme
from .token_arrays import TokenArrays, shown_tokens

ROW_PIXELS = (6, 20)
MAP_PIXELS = 420
MOST_LABELS = 70
FLAT_CHARACTERS = 80
"""Names stand level where all, were each as long as the longest, have no more: a narrow page has room for these."""
MOST_ASLANT = 30
MOST_NUMBERS = 1_500


def token_grid(
    arrays: TokenArrays,
    *,
    stream: str = "decoder",
    theme: Theme = LIGHT,
    width: Width = "container",
) -> alt.LayerChart:
    """Draw the grid, input at the bottom; cells carry their expert's number where there is room.

    Returns:
        A chart with the point selection `cell` over the fields stream, layer and expert.
    """
    data = _cells(arrays, stream, theme)
    tokens, layers = len(arrays.tokens), len(arrays.layers)
    step = min(max(MAP_PIXELS / layers, ROW_PIXELS[0]), ROW_PIXELS[1])
    x_axis, y_axis = _token_axis(arrays), _layer_axis(arrays, layers * step)
    x_scale = alt.Scale(domain=[-0.5, tokens - 0.5], nice=False, zero=False)
    y_scale = alt.Scale(domain=[-0.5, layers - 0.5], nice=False, zero=False)
    cell = cell_selection(None)
    base = alt.Chart(data)
    cells = (
        base.mark_rect()
        .encode(
            x=alt.X("x:Q", scale=x_scale, axis=x_axis),
            x2=alt.X2("x2:Q"),
            y=alt.Y("y:Q", scale=y_scale, axis=y_axis),
            y2=alt.Y2("y2:Q"),
            color=alt.Color("color:N", scale=None),
            stroke=alt.StrokeValue(theme.background),
            strokeWidth=alt.StrokeWidthValue(0.5),
            tooltip=[
                alt.Tooltip("token:N"),
                *[alt.Tooltip("bytes:N", title="bytes")] * any(data["bytes"]),
                alt.Tooltip("position:Q"),
                alt.Tooltip("layer:Q"),
                alt.Tooltip("expert:Q", title="first expert"),
                alt.Tooltip("experts:N", title="all, by gate weight"),
            ],
        )
        .add_params(cell)
    )
    drawn: list[alt.Chart] = [cells]
    if len(data) <= MOST_NUMBERS and tokens <= 48 and step >= 14:
        numbers = base.mark_text(fontSize=9, color=theme.background, opacity=0.85).encode(
            x=alt.X("position_x:Q", scale=x_scale, axis=x_axis),
            y=alt.Y("row:Q", scale=y_scale, axis=y_axis),
            text=alt.Text("expert:Q"),
        )
        drawn.append(numbers)
    x, y = alt.X("x:Q", scale=x_scale, axis=x_axis), alt.Y("y:Q", scale=y_scale, axis=y_axis)
    drawn.append(outline(data, x, y, cell, theme))
    return finish(alt.LayerChart(layer=drawn), theme, width=width, height=layers * step)


def _cells(arrays: TokenArrays, stream: str, theme: Theme) -> pd.DataFrame:
    layers, tokens, _ = arrays.ids_LTK.shape
    row_C, token_C = (index.ravel() for index in np.indices((layers, tokens)))
    first_C = arrays.ids_LTK[:, :, 0].ravel()
    shown = shown_tokens(arrays)
    colors = {expert: expert_color(int(expert), theme) for expert in np.unique(first_C[first_C >= 0])}
    used_C = first_C >= 0
    data = {
        "layer": np.array(arrays.layers)[row_C],
        "expert": first_C,
        "row": row_C,
        "position_x": token_C,
        "position": np.array(arrays.positions)[token_C],
        "token": np.array(shown, dtype=object)[token_C],
        "bytes": np.array([lone_bytes(token) for token in arrays.tokens], dtype=object)[token_C],
        "experts": np.array([_slots(arrays, int(r), int(t)) for r, t in zip(row_C, token_C, strict=True)]),
        "color": np.array([colors.get(expert, theme.missing) for expert in first_C]),
        "x": token_C - 0.5,
        "x2": token_C + 0.5,
        "y": row_C - 0.5,
        "y2": row_C + 0.5,
    }
    return pd.DataFrame({name: column[used_C] for name, column in data.items()}).assign(stream=stream)


def _slots(arrays: TokenArrays, row: int, token: int) -> str:
    ids = [int(expert) for expert in arrays.ids_LTK[row, token] if expert >= 0]
    if arrays.weights_LTK is None:
        return ", ".join(map(str, ids))
    weights = arrays.weights_LTK[row, token]
    return ", ".join(f"{expert} ({weight:.2f})" for expert, weight in zip(ids, weights, strict=False))


def _token_axis(arrays: TokenArrays) -> alt.Axis:
    tokens = len(arrays.tokens)
    if tokens <= MOST_LABELS:
        labels = [token.strip() or "␣" for token in shown_tokens(arrays)]
        # Upright where there are many: names that lie aslant would hide every other one.
        flat = tokens * max(map(len, labels), default=0) <= FLAT_CHARACTERS
        values, angle = list(range(tokens)), 0 if flat else -55 if tokens <= MOST_ASLANT else -90
    else:
        every = max(1, round(tokens / 30))
        labels = [str(position) for position in arrays.positions]
        values, angle = list(range(0, tokens, every)), 0
    return alt.Axis(
        title=None, values=values, labelAngle=angle, labelExpr=f"{_expression(labels)}[datum.value]",
        labelLimit=90, grid=False, ticks=False, domain=False, labelAlign="right" if angle else "center",
        labelBaseline="middle" if angle else "top", labelOverlap=True, labelSeparation=0 if angle else 5,
    )  # fmt: skip


def _layer_axis(arrays: TokenArrays, pixels: float) -> alt.Axis:
    every = 1 if len(arrays.layers) <= 36 else 5
    return alt.Axis(
        title=depth_title(True, pixels), titleAnchor="start", grid=False, ticks=False, domain=False,
        values=[row for row, layer in enumerate(arrays.layers) if layer % every == 0],
        labelExpr=f"{arrays.layers!r}[datum.value]",
    )  # fmt: skip


def _expression(texts: list[str]) -> str:
    """A Vega expression for a list of strings: every character that is not plain is written as an escape."""

    def quoted(text: str) -> str:
        units = text.encode("utf-16-be")
        codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
        return (
            "'"
            + "".join(chr(c) if chr(c).isascii() and chr(c).isalnum() else f"\\u{c:04x}" for c in codes)
            + "'"
        )

    return "[" + ",".join(quoted(text) for text in texts) + "]"
