"""Figures of a contrast: the volcano and the score by layer; the scan itself is the routing map."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from ..theme import LIGHT, Theme, vega_config

Width = int | Literal["container"]
Figure = alt.LayerChart | alt.FacetChart
LARGEST_LOG = 16.0


def _data(table: pa.Table) -> pd.DataFrame:
    names = ("layer", "expert", "score", "effect", "p", "q", "stability")
    data = pd.DataFrame({name: table[name].to_pylist() for name in names})
    data["place"] = [
        f"layer {layer}, expert {e}" for layer, e in zip(data["layer"], data["expert"], strict=True)
    ]
    return data


def _tooltip() -> list[alt.Tooltip]:
    formats = {"score": "+.4f", "effect": "+.2f", "p": ".2g", "q": ".2g", "stability": ".0%"}
    return [
        alt.Tooltip("place:N", title=" "),
        *(alt.Tooltip(f"{name}:Q", format=f) for name, f in formats.items()),
    ]


def volcano(table: pa.Table, *, q: float = 0.05, theme: Theme = LIGHT, width: Width = "container") -> Figure:
    """Score of every expert against the strength of its evidence; those below `q` in colour.

    Args:
        table: of the view `resonance`.
    """
    data = _data(table)
    data["strength"] = np.minimum(-np.log10(np.maximum(data["q"], 10**-LARGEST_LOG)), LARGEST_LOG)
    data["color"] = np.where(
        data["q"] > q, theme.mark, np.where(data["score"] > 0, theme.diverging[-2], theme.diverging[1])
    )
    points = (
        alt.Chart(data)
        .mark_circle(size=34)
        .encode(
            x=alt.X("score:Q", title="score: target − rest"),
            y=alt.Y("strength:Q", title="−log₁₀ q"),
            color=alt.Color("color:N", scale=None),
            opacity=alt.condition(alt.datum.q <= q, alt.value(0.95), alt.value(0.45)),
            tooltip=_tooltip(),
        )
    )
    level = alt.Chart(pd.DataFrame({"level": [-np.log10(q)]}))
    rule = level.mark_rule(strokeDash=[4, 4], color=theme.muted).encode(y="level:Q")
    return alt.layer(rule, points).properties(width=width, height=280).configure(**vega_config(theme))


def by_layer(table: pa.Table, *, q: float = 0.05, theme: Theme = LIGHT, width: Width = "container") -> Figure:
    """How many experts of each layer stand out, towards the target (up) and towards the rest (down).

    Args:
        table: of the view `resonance`.
    """
    data = _data(table)
    data["found"] = np.where(data["q"] <= q, np.sign(data["score"]), 0)
    data["toward"] = np.where(data["score"] > 0, "target", "rest")
    colors = alt.Scale(domain=["target", "rest"], range=[theme.diverging[-2], theme.diverging[1]])
    counts = pd.DataFrame(data.groupby(["layer", "toward"], as_index=False)["found"].sum())
    bars = (
        alt.Chart(counts)
        .mark_bar()
        .encode(
            x=alt.X("layer:O", title="layer (input at the left)", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("found:Q", title=f"experts with q ≤ {q}", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("toward:N", title="toward", scale=colors),
            tooltip=["layer:O", "toward:N", alt.Tooltip("found:Q", title="experts")],
        )
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=theme.line).encode(y="zero:Q")
    return alt.layer(bars, zero).properties(width=width, height=280).configure(**vega_config(theme))
