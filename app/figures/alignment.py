"""Figures of cross-lingual alignment: a line a language over layers, the matrix of languages, score against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa

from ..text import words
from .look import Width, finish
from .palette import expert_color, family_of, language_color
from .routing_map import map_legend
from .theme import LIGHT, Theme

LEGEND_ROWS = 10
LEGEND_ACROSS = 5
LABEL_PIXELS = 13
"""Height of a name at the end of a line."""
UNKNOWN = "unknown"
BRUSH = "window"
"""Name of the interval selection over layers."""


def by_layer(
    table: pa.Table,
    value: str,
    *,
    label: str,
    theme: Theme = LIGHT,
    colors: Mapping[str, str] | None = None,
    scores: tuple[str, Mapping[str, float]] | None = None,
    classes: tuple[str, Mapping[str, str | None]] | None = None,
    chance: float | None = None,
    brush: bool = False,
    domain: tuple[float, float] | None = None,
    legend: bool = True,
    legend_beneath: bool = False,
    height: int = 320,
    width: Width = "container",
) -> alt.LayerChart:
    """A line a language over layers, with its 95 % band.

    Args:
        table: columns language, layer, `value`, low, high (null: unknown).
        colors: colour of each language; by family where None.
        scores: name and language → score: lines are coloured by it instead.
        classes: name and language → class: lines are coloured by that instead.
        chance: a level to draw as a dashed line.
        brush: whether a range of layers can be dragged; it is the selection BRUSH.
        legend_beneath: whether the names stand beneath the figure, for a narrow page.
        domain: ends of the vertical axis, for figures that are compared; the data's own where None.
    """
    data = pd.DataFrame(
        {name: table[name].to_pylist() for name in ("language", "layer", value, "low", "high")}
    )
    data["name"] = [words.language_name(code) for code in data["language"]]
    data["family"] = [
        (classes[1].get(code) or UNKNOWN) if classes else family_of(code) for code in data["language"]
    ]
    layers = sorted(set(data["layer"]))
    names = data.drop_duplicates("language").sort_values("name")
    color, legend_pick = _color(data, names, theme, colors, scores, classes)
    named = legend and not legend_beneath and len(names) * LABEL_PIXELS <= height and len(layers) > 1
    kin = None
    if named:  # a name at the end of its line needs no legend
        legend_pick, kin = (
            alt.selection_point(name=name, fields=[field], on="pointerover", clear="pointerout")
            for name, field in (("lifted", "name"), ("kin", "family"))
        )
        color = _with_legend(color, None if scores is None and classes is None else {"orient": "top"})
    if legend_beneath:
        color = _with_legend(color, {"orient": "bottom", "columns": LEGEND_ACROSS})
    if not legend:
        color, legend_pick = _without_legend(color), None
    base = alt.Chart(data).encode(x=layer_axis(layers), color=color, detail=alt.Detail("language:N"))
    scale = alt.Scale(domain=list(domain), zero=False, clamp=True) if domain else alt.Scale(zero=False)
    bands = base.mark_area().encode(
        y=alt.Y("low:Q", title=label, scale=scale),
        y2=alt.Y2("high:Q"),
        opacity=_faded(legend_pick, kin, 0.14, 0.05, 0.02),
    )
    about = [("class", classes[0])] if classes else [("score", scores[0])] if scores else []
    lines = base.mark_line(strokeWidth=1.7, point=alt.OverlayMarkDef(size=22)).encode(
        y=alt.Y(f"{value}:Q", title=label, scale=scale),
        opacity=_faded(legend_pick, kin, 1.0, 0.55, 0.12),
        tooltip=_line_card(value, label, about),
    )
    lines = lines.add_params(*filter(None, (legend_pick, kin)))
    if brush and len(layers) > 1:
        lines = lines.add_params(alt.selection_interval(name=BRUSH, encodings=["x"]))
    parts: list[Any] = [bands, lines]
    if named:
        opacity = _faded(legend_pick, kin, 1.0, 0.8, 0.25)
        card = _line_card(value, label, about)
        labels = end_labels(data, value, height, domain, color, theme)
        parts += [label.encode(opacity=opacity, tooltip=card) for label in labels]
    if chance is not None:
        level = alt.Chart(pd.DataFrame({"chance": [chance]}))
        parts.append(level.mark_rule(strokeDash=[4, 4], color=theme.muted).encode(y=alt.Y("chance:Q")))
    return finish(alt.LayerChart(layer=parts), theme, width=width, height=height)


def end_labels(
    data: pd.DataFrame, value: str, height: int, domain: tuple[float, float] | None, color: Any, theme: Theme
) -> list[alt.Chart]:
    """Each line's name at its right end with a square in its colour, moved up or down where names would lie on one
    another.

    Args:
        data: columns name, layer, `value`, low, high.
        domain: ends of the vertical axis, where it is not the data's own.
    """
    ends = pd.DataFrame(data[(data["layer"] == data["layer"].max()) & data[value].notna()]).sort_values(value)
    drawn = data[[value, "low", "high"]].astype(float)  # where no interval is known, the values alone
    low, high = domain or (float(drawn.min().min()), float(drawn.max().max()))
    step = LABEL_PIXELS * (high - low) / height
    ends = ends.assign(at=spread(ends[value].tolist(), step, low, high))
    base = alt.Chart(ends).encode(x=alt.X("layer:Q"), y=alt.Y("at:Q"))
    # Colours that are told apart by their lightness are too pale for small type: the name is in ink.
    name = base.mark_text(align="left", dx=19, fontSize=10.5, color=theme.text)
    square = base.mark_square(size=26, xOffset=12, opacity=1).encode(color=color)
    return [square, name.encode(text=alt.Text("name:N"))]


def spread(values: list[float], step: float, low: float, high: float) -> list[float]:
    """Places for sorted values, at least `step` apart, near them, between `low` and `high` where there is room."""
    groups: list[tuple[float, int]] = []  # middle and number of places that touch one another
    for value in values:
        middle, size = value, 1
        while groups and groups[-1][0] + groups[-1][1] * step / 2 > middle - size * step / 2:
            other, count = groups.pop()
            middle, size = (other * count + middle * size) / (count + size), size + count
        groups.append((middle, size))
    places = [middle + (k - (size - 1) / 2) * step for middle, size in groups for k in range(size)]
    if not places:
        return []
    for k in range(len(places)):  # from the bottom up, then from the top down: inside, and still apart
        places[k] = max(places[k], low if k == 0 else places[k - 1] + step)
    for k in reversed(range(len(places))):
        places[k] = min(places[k], high if k == len(places) - 1 else places[k + 1] - step)
    return places


def layer_axis(layers: list[int]) -> alt.X:
    return alt.X("layer:Q", title="layer (input at the left)",
                 axis=alt.Axis(values=_ticks(layers), format="d", grid=False),
                 scale=alt.Scale(domain=[layers[0], layers[-1]], nice=False, padding=8))  # fmt: skip


def _faded(
    picked: alt.Parameter | None, kin: alt.Parameter | None, shown: float, family: float, others: float
) -> Any:
    """Opacity: `family` for the kin of what is picked, `others` for the rest."""
    if picked is None:
        return alt.value(shown)
    chosen = alt.when(picked).then(alt.value(shown))
    if kin is not None:
        chosen = chosen.when(kin).then(alt.value(family))
    return chosen.otherwise(alt.value(others))


def _line_card(value: str, label: str, about: Sequence[tuple[str, str]]) -> list[alt.Tooltip]:
    """The hover card of a point. `about` is what the lines are coloured by: column and title."""
    return [
        alt.Tooltip("name:N", title="language"),
        *(
            alt.Tooltip(f"{column}:N", title=title)
            if column == "class"
            else alt.Tooltip(f"{column}:Q", title=title, format=".4g")
            for column, title in about
        ),
        alt.Tooltip("layer:Q", format="d"),
        alt.Tooltip(f"{value}:Q", title=label, format=".4f"),
        alt.Tooltip("low:Q", title="95 % from", format=".4f"),
        alt.Tooltip("high:Q", title="to", format=".4f"),
    ]


def _color(
    data: pd.DataFrame,
    names: pd.DataFrame,
    theme: Theme,
    colors: Mapping[str, str] | None,
    scores: tuple[str, Mapping[str, float]] | None,
    classes: tuple[str, Mapping[str, str | None]] | None,
) -> tuple[Any, alt.Parameter | None]:
    if classes is not None:
        return _color_by_class(data, theme, *classes)
    if scores is not None:
        title, score_of = scores
        data["score"] = [score_of.get(code) for code in data["language"]]
        # Vega-Lite drops marks whose colour is null; languages without a score are to stay, in grey.
        data["shade"] = data["score"].fillna(min(score_of.values(), default=0.0))
        data["scored"] = data["score"].notna()
        scale = alt.Scale(range=list(theme.sequential[2:]))
        shade = alt.Color("shade:Q", title=title, scale=scale)
        return alt.condition("datum.scored", shade, alt.value(theme.missing)), None
    given = colors or {code: language_color(code, theme) for code in names["language"]}
    scale = alt.Scale(domain=list(names["name"]), range=[given[code] for code in names["language"]])
    legend = alt.Legend(
        title=None,
        columns=1 if len(names) <= LEGEND_ROWS else 2,
        symbolOpacity=1,
        symbolType="square",
        labelLimit=90,
    )
    pick = alt.selection_point(name="language", fields=["name"], bind="legend")
    return alt.Color("name:N", scale=scale, legend=legend), pick


def _without_legend(color: Any) -> Any:
    return _with_legend(color, None)


def _with_legend(color: Any, changes: dict[str, Any] | None) -> Any:
    """A colour whose legend is changed; None takes the legend away."""
    if not isinstance(color, alt.Color):  # a condition, for scores: a short bar, which stays where it is
        return color if changes else color | {"condition": {**color["condition"], "legend": None}}
    plain: Any = color.to_dict()
    return alt.Color.from_dict(plain | {"legend": changes and (plain.get("legend") or {}) | changes})


def _color_by_class(
    data: pd.DataFrame, theme: Theme, title: str, class_of: Mapping[str, str | None]
) -> tuple[alt.Color, alt.Parameter]:
    """A colour a class, in the order of their names; languages of no class are grey."""
    data["class"] = [class_of.get(code) or UNKNOWN for code in data["language"]]
    # Of all languages, also those of other traces: a class has one colour in all figures of a page.
    known = sorted({value for value in class_of.values() if value})
    colors = [expert_color(number, theme) for number in range(len(known))]
    unknown = [UNKNOWN] if UNKNOWN in set(data["class"]) else []
    scale = alt.Scale(domain=[*known, *unknown], range=[*colors, *(theme.mark for _ in unknown)])
    legend = alt.Legend(title=title, symbolOpacity=1, symbolType="square", labelLimit=140)
    return alt.Color("class:N", scale=scale, legend=legend), alt.selection_point(
        name="picked", fields=["class"], bind="legend"
    )


def common_domain(tables: Sequence[pa.Table], value: str) -> tuple[float, float]:
    """Ends of one vertical axis for several figures, with a little room."""
    ends = [
        number
        for table in tables
        for name in (value, "low", "high")
        for number in table[name].to_pylist()
        if number is not None
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = 0.03 * (high - low) or 0.01
    return max(0.0, low - room), high + room


def _ticks(layers: list[int]) -> list[int]:
    step = max(1, len(layers) // 16)
    return layers[::step]


def matrix(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """Divergence between every two languages, similar ones side by side.

    Args:
        table: of the view `alignment-matrix`.
    """
    names = ("language_a", "language_b", "divergence", "low", "high", "units", "order_a")
    data = pd.DataFrame({name: table[name].to_pylist() for name in names})
    for side in ("a", "b"):
        data[f"name_{side}"] = [words.language_name(code) for code in data[f"language_{side}"]]
    order = list(data.drop_duplicates("language_a").sort_values("order_a")["name_a"])
    largest = (
        max((value for value in table["divergence"].to_pylist() if value is not None), default=0.0) or 1.0
    )
    size = max(220, 19 * len(order))
    axis = alt.Axis(ticks=False, domain=False, labelLimit=110)
    # Codes across, since names would have to stand aslant; the names are at the left, in the same order.
    codes = list(data.drop_duplicates("language_a").sort_values("order_a")["language_a"])
    across = alt.Axis(ticks=False, domain=False, labelAngle=0, labelOverlap="greedy")
    base = alt.Chart(data).encode(
        x=alt.X("language_b:N", sort=codes, title=None, axis=across),
        y=alt.Y("name_a:N", sort=order, title=None, axis=axis),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "divergence:Q",
            legend=map_legend("divergence", ".2f"),
            scale=alt.Scale(domain=[0, largest], range=list(theme.sequential)),
        ),
        tooltip=[
            alt.Tooltip("name_a:N", title="this"),
            alt.Tooltip("name_b:N", title="and"),
            alt.Tooltip("divergence:Q", format=".4f"),
            alt.Tooltip("low:Q", title="95 % from", format=".4f"),
            alt.Tooltip("high:Q", title="to", format=".4f"),
            alt.Tooltip("units:Q", title="parallel units", format="d"),
        ],
    )
    layers: list[Any] = [cells]
    if len(order) <= 12:
        ink = alt.condition(
            f"datum.divergence > {0.55 * largest}", alt.value(theme.background), alt.value(theme.text)
        )
        layers.append(
            base.mark_text(fontSize=10).encode(text=alt.Text("divergence:Q", format=".2f"), color=ink)
        )
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=size)


def scatter(
    table: pa.Table, *, score_label: str = "score", theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """Score of each language against its mean divergence, with its 95 % interval.

    Args:
        table: of the view `alignment-scores`.
    """
    data = pd.DataFrame(
        {name: table[name].to_pylist() for name in ("language", "score", "divergence", "low", "high")}
    )
    data["name"] = [words.language_name(code) for code in data["language"]]
    data["color"] = [language_color(code, theme) for code in data["language"]]
    base = alt.Chart(data).encode(
        y=alt.Y("score:Q", title=score_label, scale=alt.Scale(zero=False)),
        color=alt.Color("color:N", scale=None),
    )
    x = alt.X("divergence:Q", title="mean divergence from the pivot", scale=alt.Scale(zero=False))
    tooltip = [
        alt.Tooltip("name:N", title="language"),
        alt.Tooltip("score:Q", title=score_label, format=".4g"),
        alt.Tooltip("divergence:Q", format=".4f"),
    ]
    spans = base.mark_rule(opacity=0.5).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))
    points = base.mark_circle(size=70, opacity=1).encode(x=x, tooltip=tooltip)
    labels = base.mark_text(align="left", dx=7, dy=-5, fontSize=11).encode(x=x, text=alt.Text("language:N"))
    return finish(alt.LayerChart(layer=[spans, points, labels]), theme, width=width, height=320)
