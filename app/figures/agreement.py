"""Figures of a comparison: the profile over layers, flips through layers, margins, exchanges, one prompt."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pyarrow as pa

from ...store.compare.tokens import FEWEST
from .look import Width, depth_title, finish
from .routing_layout import every_layer
from .theme import LIGHT, Theme

MEASURES = {
    "flip_rate": "tokens with another set of experts",
    "first_flip": "tokens with another first expert",
    "overlap": "experts in common",
    "gate_distance": "gate weight that lies elsewhere",
    "load_correlation": "rank correlation of the experts' loads",
}
"""Measure of the view `agreement` → its axis title."""
LAYER = "layer (input at the left)"
_LAYERS = alt.Axis(format="d", grid=False, tickMinStep=1)


def profile(
    table: pa.Table, measure: str, *, by: str | None = None, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """One measure by layer with its 95 % band; the overlap with its chance as a dashed line.

    Args:
        table: the view `agreement`.
        by: the column that it is split by, a line for each value.
    """
    data = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    data["low"], data["high"], data["value"] = data[f"{measure}_low"], data[f"{measure}_high"], data[measure]
    share = measure != "load_correlation"
    form = ".2%" if share else ".3f"
    y_axis = alt.Axis(format="~%" if share else "")
    title = MEASURES[measure]
    base = alt.Chart(data).encode(
        x=alt.X("layer:Q", title=LAYER, axis=_LAYERS, scale=alt.Scale(zero=False, nice=False))
    )
    color = alt.Color(f"{by}:N", title=by) if by else alt.value(theme.primary)
    band = base.mark_area(opacity=0.16).encode(
        y=alt.Y("low:Q", title=title, axis=y_axis), y2=alt.Y2("high:Q"), color=color
    )
    tips = [alt.Tooltip(f"{by}:N")] if by else []
    line = base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=26)).encode(
        y=alt.Y("value:Q", title=title, axis=y_axis),
        color=color,
        tooltip=[
            *tips,
            alt.Tooltip("layer:Q"),
            alt.Tooltip("value:Q", title=title, format=form),
            alt.Tooltip("low:Q", title="95 % from", format=form),
            alt.Tooltip("high:Q", title="to", format=form),
            alt.Tooltip("tokens:Q", format=",d"),
        ],
    )
    layers = [band, line]
    if measure == "overlap":
        layers.append(base.mark_line(color=theme.muted, strokeDash=[4, 4]).encode(y=alt.Y("mean(chance):Q")))
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=260)


def through_layers(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """Bars of where a token's first flip is; lines of how likely a layer flips after an earlier flip and after none.

    Args:
        table: the view `agreement-tokens`.
    """
    data = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    data["from"], data["to"] = data["layer"] - 0.35, data["layer"] + 0.35
    x, y = alt.X("from:Q", title=LAYER, axis=_LAYERS, scale=alt.Scale(nice=False)), "share of tokens"
    bars = (
        alt.Chart(data)
        .mark_rect(color=theme.mark, opacity=0.45)
        .encode(
            x=x, x2=alt.X2("to:Q"), y=alt.Y("first_share:Q", title=y, axis=alt.Axis(format="~%")), y2=alt.Y2Datum(0),
            tooltip=[
                alt.Tooltip("layer:Q"),
                alt.Tooltip("first_share:Q", title="first flip here", format=".2%"),
                alt.Tooltip("so_far:Q", title="flipped so far", format=".2%"),
            ],
        )
    )  # fmt: skip
    names = {"after_earlier": "flips after an earlier flip", "after_none": "flips after none"}
    # A share of a handful of tokens jumps about.
    enough = {"after_earlier": data["earlier"] >= FEWEST, "after_none": data["unflipped"] >= FEWEST}
    for name, known in enough.items():
        data[name] = data[name].where(known)
    long = data.melt(["layer"], list(names), "when", "share").dropna()
    long["when"] = long["when"].map(names.get)
    lines = (
        alt.Chart(long)
        .mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=24))
        .encode(
            x=alt.X("layer:Q", title=LAYER),
            y=alt.Y("share:Q", title=y),
            color=alt.Color(
                "when:N", title=None, scale=alt.Scale(domain=[*names.values()], range=[theme.selected, theme.primary]),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[alt.Tooltip("when:N"), alt.Tooltip("layer:Q"), alt.Tooltip("share:Q", format=".2%")],
        )
    )  # fmt: skip
    return finish(alt.LayerChart(layer=[bars, lines]), theme, width=width, height=240)


def margin_curve(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """Flip rate by tenth of the selection margin, with its band; one layer of the view `agreement-margin`."""
    data = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    axis = alt.Axis(format="d", tickMinStep=1, grid=False)
    base = alt.Chart(data).encode(
        x=alt.X("decile:Q", title="tenth of tokens, closest choice first", axis=axis)
    )
    title = "tokens with another set of experts"
    y_axis = alt.Axis(format="~%")
    band = base.mark_area(color=theme.primary, opacity=0.16).encode(
        y=alt.Y("flip_rate_low:Q", title=title, axis=y_axis), y2=alt.Y2("flip_rate_high:Q")
    )
    line = base.mark_line(color=theme.primary, point=alt.OverlayMarkDef(size=26)).encode(
        y=alt.Y("flip_rate:Q", title=title, axis=y_axis),
        tooltip=[
            alt.Tooltip("decile:Q"),
            alt.Tooltip("margin_from:Q", title="margin from", format=".3g"),
            alt.Tooltip("margin_to:Q", title="to", format=".3g"),
            alt.Tooltip("flip_rate:Q", title=title, format=".2%"),
        ],
    )
    return finish(alt.LayerChart(layer=[band, line]), theme, width=width, height=220)


def exchange_map(
    table: pa.Table, experts: int, *, theme: Theme = LIGHT, width: Width = "container"
) -> alt.Chart:
    """Which expert of B (columns) replaced which of A (rows) in one layer of the view `agreement-experts`."""
    names = ("layer", "from_expert", "to_expert", "count", "share", "uses")
    data = pd.DataFrame({name: table[name].to_pylist() for name in names})
    half = max(0.5, experts / 150)  # of 256 experts a cell must still be seen
    for name, at in (("x", "to_expert"), ("y", "from_expert")):
        data[name], data[f"{name}2"] = data[at] - half, data[at] + half
    scale = alt.Scale(domain=[-0.5, experts - 0.5], nice=False)
    whole = alt.Axis(format="d", tickMinStep=1, grid=False, zindex=1)  # before the palest cells
    chart = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X("x:Q", title="expert in B", scale=scale, axis=whole), x2=alt.X2("x2:Q"),
            y=alt.Y("y:Q", title="expert in A", scale=scale, axis=whole), y2=alt.Y2("y2:Q"),
            color=alt.Color("count:Q", title="times", scale=alt.Scale(range=list(theme.sequential), domainMin=0)),
            tooltip=[
                alt.Tooltip("from_expert:Q", title="expert in A"),
                alt.Tooltip("to_expert:Q", title="replaced by"),
                alt.Tooltip("count:Q", title="times", format=",.1f"),
                alt.Tooltip("share:Q", title="of its uses", format=".2%"),
            ],
        )
    )  # fmt: skip
    return finish(chart, theme, width=width, height=320)


def prompt_grid(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.Chart:
    """One prompt: layers upwards, tokens to the right, coloured by what changed; both sides' experts on hover.

    Args:
        table: the view `agreement-of-prompt`.
    """
    names = ("position", "token", "layer", "overlap", "flipped", "first_flipped")
    data = pd.DataFrame({name: table[name].to_pylist() for name in names})
    for side in ("a", "b"):
        data[f"experts {side.upper()}"] = [
            ", ".join(map(str, ids)) for ids in table[f"experts_{side}"].to_pylist()
        ]
    kinds = ["same experts", "another first expert", "another set"]
    data["change"] = [
        kinds[2 if flip else int(first)]
        for flip, first in zip(data["flipped"], data["first_flipped"], strict=True)
    ]
    layers = sorted(data["layer"].unique())
    row = {layer: number for number, layer in enumerate(layers)}
    data["y"] = data["layer"].map(row.get) - 0.5
    data["y2"] = data["y"] + 1
    data["x"], data["x2"] = data["position"] - 0.5, data["position"] + 0.5
    places = alt.Axis(format="d", grid=False)
    every = every_layer(len(layers))
    height = min(max(14 * len(layers), 80), 420)
    rows = alt.Axis(
        title=depth_title(True, height), titleAnchor="start", grid=False, ticks=False, domain=False,
        values=[number for layer, number in row.items() if layer % every == 0],
        labelExpr=f"{[int(layer) for layer in layers]!r}[datum.value]",
    )  # fmt: skip
    chart = (
        alt.Chart(data)
        .mark_rect(stroke=theme.background, strokeWidth=0.5)
        .encode(
            x=alt.X("x:Q", title="position", scale=alt.Scale(nice=False, zero=False), axis=places),
            x2=alt.X2("x2:Q"),
            y=alt.Y("y:Q", axis=rows, scale=alt.Scale(nice=False)),
            y2=alt.Y2("y2:Q"),
            color=alt.Color(
                "change:N", title=None, legend=alt.Legend(orient="top"),
                scale=alt.Scale(domain=kinds, range=[theme.missing, theme.mark, theme.selected]),
            ),
            tooltip=[alt.Tooltip("token:N"), alt.Tooltip("position:Q"), alt.Tooltip("layer:Q"), alt.Tooltip("change:N"),
                     alt.Tooltip("experts A:N"), alt.Tooltip("experts B:N"),
                     alt.Tooltip("overlap:Q", title="in common", format=".0%")],
        )
    )  # fmt: skip
    return finish(chart, theme, width=width, height=height)
