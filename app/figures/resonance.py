"""Figures of a contrast: the volcano, scores by layer, two contrasts against one another; the scan is the
routing map."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from ...store.schema import LayerExpert
from .look import Width, finish
from .routing_map import rounded
from .theme import LIGHT, Theme
from .thresholds import Threshold

LARGEST_LOG = 16.0
HEIGHT = 280
FEW = 2_000
"""Up to so many points are drawn large."""


def _data(table: pa.Table) -> pd.DataFrame:
    names = ("layer", "expert", "score", "effect", "p", "q", "stability")
    return pd.DataFrame({name: rounded(table[name].to_numpy(zero_copy_only=False)) for name in names})


def _tooltip() -> list[alt.Tooltip]:
    formats = {"score": "+.4f", "effect": "+.2f", "p": ".2g", "q": ".2g", "stability": ".0%"}
    return [
        alt.Tooltip("place:N", title=" "),
        *(alt.Tooltip(f"{name}:Q", format=f) for name, f in formats.items()),
    ]


def _toward(data: pd.DataFrame, theme: Theme) -> np.ndarray:
    """Colour of each expert: that of its side where it stands out."""
    side = np.where(data["score"] > 0, theme.diverging[-2], theme.diverging[1])
    return np.where(data["kept"], side, theme.mark)


def _points(data: pd.DataFrame, x: Any, y: Any, **size: Any) -> alt.Chart:
    return (
        alt.Chart(data)
        .transform_calculate(place="'layer ' + datum.layer + ', expert ' + datum.expert")
        .mark_circle(size=34 if len(data) <= FEW else 14)
        .encode(
            x=x,
            y=y,
            color=alt.Color("color:N", scale=None),
            opacity=alt.condition("datum.kept", alt.value(0.95), alt.value(0.35)),
            tooltip=_tooltip(),
            **size,
        )
    )


def volcano(
    table: pa.Table,
    *,
    threshold: Threshold | None = None,
    theme: Theme = LIGHT,
    label: str = "score: A − B",
    width: Width = "container",
) -> alt.LayerChart:
    """Score of every expert against the strength of its evidence; those that stand out in colour.

    Args:
        table: of the view `resonance`.
    """
    threshold = threshold or Threshold()
    data = _data(table)
    data["kept"] = threshold.mask(table)
    data["strength"] = np.minimum(-np.log10(np.maximum(data["q"], 10**-LARGEST_LOG)), LARGEST_LOG)
    data["color"] = _toward(data, theme)
    x = alt.X("score:Q", title=label)
    y = alt.Y("strength:Q", title="evidence: −log10 q")
    points = _points(data, x, y)
    rules = []
    if threshold.kind == "q":
        level = alt.Chart(pd.DataFrame({"level": [-np.log10(threshold.value)]}))
        rules = [level.mark_rule(strokeDash=[4, 4], color=theme.muted).encode(y=alt.Y("level:Q"))]
    elif threshold.kind == "score":
        levels = alt.Chart(pd.DataFrame({"level": [-threshold.value, threshold.value]}))
        rules = [levels.mark_rule(strokeDash=[4, 4], color=theme.muted).encode(x=alt.X("level:Q"))]
    return finish(
        alt.LayerChart(layer=[*rules, points]),
        theme,
        width=width,
        height=HEIGHT,
    )


def by_layer(
    table: pa.Table,
    *,
    threshold: Threshold | None = None,
    theme: Theme = LIGHT,
    label: str = "score: A − B",
    width: Width = "container",
) -> alt.LayerChart:
    """The scores of every layer, a point an expert; those that stand out in colour.

    Args:
        table: of the view `resonance`.
    """
    data = _data(table)
    data["kept"] = (threshold or Threshold()).mask(table)
    data["color"] = _toward(data, theme)
    # A step aside that depends on the expert alone, so that equal scores do not hide one another.
    data["aside"] = (data["expert"] * 0.618034) % 1
    x = alt.X("layer:O", title="layer (input at the left)", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("score:Q", title=label)
    aside = alt.XOffset("aside:Q", scale=alt.Scale(domain=[-0.25, 1.25]))
    points = _points(data, x, y, xOffset=aside)
    zero = (
        alt.Chart(pd.DataFrame({"zero": [0]}))
        .mark_rule(color=theme.muted, opacity=0.5)
        .encode(y=alt.Y("zero:Q"))
    )
    return finish(
        alt.LayerChart(layer=[zero, points]),
        theme,
        width=width,
        height=HEIGHT,
    )


def two_scores(
    first: pa.Table,
    second: pa.Table,
    tops: tuple[Set[LayerExpert], Set[LayerExpert]],
    names: tuple[str, str],
    *,
    theme: Theme = LIGHT,
    width: Width = "container",
) -> alt.LayerChart:
    """Score of every expert in two contrasts; the top experts of either, and of both, in colour.

    Args:
        first, second: of the view `resonance`, over the same routers.
        tops: the cells in the top N of each.
        names: the contrasts in words.
    """
    data = matched(first, second)
    cells = list(map(LayerExpert, data["layer"], data["expert"]))
    kinds = {(True, True): "both", (True, False): "first only", (False, True): "second only"}
    data["in top"] = [kinds.get((cell in tops[0], cell in tops[1]), "neither") for cell in cells]
    data["place"] = [f"layer {layer}, expert {expert}" for layer, expert in cells]
    shades = {"both": theme.selected, "first only": theme.diverging[-2], "second only": theme.diverging[1]}
    scale = alt.Scale(domain=[*shades, "neither"], range=[*shades.values(), theme.mark])
    points = (
        alt.Chart(data)
        .mark_circle(size=40 if len(data) <= FEW else 16)
        .encode(
            x=alt.X("score:Q", title=f"score: {names[0]}"),
            y=alt.Y("other:Q", title=f"score: {names[1]}"),
            color=alt.Color("in top:N", title="in the top N of", scale=scale),
            opacity=alt.condition(alt.datum["in top"] == "neither", alt.value(0.35), alt.value(0.95)),
            tooltip=[
                alt.Tooltip("place:N", title=" "),
                alt.Tooltip("score:Q", title=names[0], format="+.4f"),
                alt.Tooltip("other:Q", title=names[1], format="+.4f"),
            ],
        )
    )
    zero = pd.DataFrame({"zero": [0]})
    rule = {"color": theme.muted, "opacity": 0.5}
    lines = [
        alt.Chart(zero).mark_rule(**rule).encode(x=alt.X("zero:Q")),
        alt.Chart(zero).mark_rule(**rule).encode(y=alt.Y("zero:Q")),
    ]
    return finish(alt.LayerChart(layer=[*lines, points]), theme, width=width, height=300)


def matched(first: pa.Table, second: pa.Table) -> pd.DataFrame:
    """Cells that both contrasts have: layer, expert, score (of the first), other (of the second)."""
    one, other = (_scores(table) for table in (first, second))
    rows = [
        {"layer": cell[0], "expert": cell[1], "score": score, "other": other[cell]}
        for cell, score in one.items()
        if cell in other
    ]
    return pd.DataFrame(rows, columns=["layer", "expert", "score", "other"])


def _scores(table: pa.Table) -> Mapping[LayerExpert, float]:
    cells = map(LayerExpert, table["layer"].to_pylist(), table["expert"].to_pylist())
    return dict(zip(cells, table["score"].to_pylist(), strict=True))


def top_toward(table: pa.Table, top: int) -> set[LayerExpert]:
    """The cells of the `top` largest scores, towards the target."""
    rows = sorted(_scores(table).items(), key=lambda item: -item[1])
    return {cell for cell, _ in rows[:top]}


def group_maps(scan: pa.Table, prompts: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Both groups' mean maps and those of single prompts, one under another, as `small_maps` takes them.

    Args:
        scan: of the view `resonance`.
        prompts: of the view `prompt-maps`, of the same measure and span.
        names: prompt_id → title of its map.
    Returns:
        map (A, B, or a prompt's title), layer, stream, expert, value.
    """
    cells = scan.select(["layer", "stream", "expert"])
    pieces = [
        cells.append_column("value", scan[column]).append_column("map", pa.array([side] * scan.num_rows))
        for side, column in (("A", "target_mean"), ("B", "rest_mean"))
    ]
    shown = [names[prompt] for prompt in prompts["prompt_id"].to_pylist()]
    single = prompts.select(["layer", "stream", "expert", "value"])
    pieces.append(single.append_column("map", pa.array(shown, pa.string())))
    return pa.concat_tables([piece.select(["map", "layer", "stream", "expert", "value"]) for piece in pieces],
                            promote_options="permissive")  # fmt: skip
