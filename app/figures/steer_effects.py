"""What a steering did, with its controls beside it so that nobody can overlook them; and the dose curve.

The profile has the accent colour of everything steered; every control is grey: a thin line for each random draw, a
diamond for the other layers, a triangle for the opposite sign.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd
import pyarrow as pa

from ..text import words
from .look import Width, finish
from .theme import LIGHT, Theme

ROW_PIXELS = 34
BETWEEN = 0.3
"""Part of a row that separates it from the next."""
PANEL_PIXELS = 170
MARGIN = 0.5
"""How far beyond the profile's intervals the axis may go for a control, in parts of their reach."""
TICKS = 8
"""About as many numbers on an axis as a narrow page has room for."""
KINDS = {
    "profile": "the profile",
    "random": "random experts",
    "layers": "other layers",
    "opposite": "opposite sign",
}
PERCENT = ("perplexity", "accuracy", "changed")
LABELS = {
    "perplexity": "change of perplexity (steered ÷ base − 1)",
    "log_perplexity": "change of log perplexity (nats a token)",
    "bits_per_byte": "change in bits per byte",
    "accuracy": "change of accuracy, percentage points",
    "kl": "KL divergence of steered from base, nats a token",
    "changed": "share of routing changed",
}


def label_of(measure: str) -> str:
    """An axis title."""
    rate = f"change of the rate of {measure.removeprefix('behaviour: ')}, percentage points"
    return LABELS.get(measure, rate)


def in_points(measure: str) -> bool:
    """Whether the measure is a share, so that its change is in percentage points."""
    return measure == "accuracy" or measure.startswith("behaviour")


def format_of(measure: str) -> str:
    return "+.1%" if measure in PERCENT or measure.startswith("behaviour") else "+.3f"


def change_axis(measure: str, **options: Any) -> alt.Axis:
    """An axis of changes: signs, no zeros behind the point, and 0 as 0."""
    form = re.sub(r"([%f])$", r"~\1", format_of(measure))
    zero = "datum.value == 0 ? '0' : datum.label"
    return alt.Axis(format=form, labelExpr=zero, labelOverlap=True, labelSeparation=6, **options)


def effects_chart(
    table: pa.Table, measure: str, *, by: str | None = None, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """The effect on each group with its interval, and the intervals of all controls behind it.

    The axis follows the profile: a control far beyond stands at its end, with its number, and an arrow there marks an
    interval that goes on.

    Args:
        table: as `Evaluation.effects` gives it.
        measure: of the table.
        by: the column that groups are values of, for their names.
    """
    rows = [row for row in table.to_pylist() if row["measure"] == measure and row["kind"] in KINDS]
    low, high = _reach(rows)
    data = pd.DataFrame([_place(row, by) | _beyond(row, low, high, measure) for row in rows])
    groups = list(dict.fromkeys(data["group name"]))
    y = alt.Y(
        "group name:N", title=None, sort=groups, axis=alt.Axis(labelLimit=220, ticks=False, domain=False),
        scale=alt.Scale(paddingInner=BETWEEN, paddingOuter=BETWEEN / 2),
    )  # fmt: skip
    numbers = change_axis(measure, tickCount=TICKS)
    scale = alt.Scale(domain=[low, high], clamp=True)
    on_axis = {"title": label_of(measure), "axis": numbers, "scale": scale}
    x = alt.X("change:Q", **on_axis)
    # Lanes run downwards. In pixels, because releases of Vega-Lite differ in the direction of an offset.
    offset = alt.YOffset("shift:Q", scale=alt.Scale(domain=[-1, 1], range=[0, ROW_PIXELS * (1 - BETWEEN)]))
    tooltip = _tooltip(measure)
    base = alt.Chart(data).encode(y=y, yOffset=offset, tooltip=tooltip)
    grey, own = theme.mark, theme.steered
    controls, profile = "datum.kind != 'profile'", "datum.kind == 'profile'"
    shapes = alt.Scale(domain=list(KINDS.values()), range=["circle", "circle", "diamond", "triangle-up"])
    colors = alt.Scale(domain=list(KINDS.values()), range=[own, grey, grey, grey])
    legend = alt.Legend(title=None, orient="top", symbolStrokeWidth=1.5)
    named = {
        "shape": alt.Shape("who:N", scale=shapes, legend=legend),
        "color": alt.Color("who:N", scale=colors, legend=legend),
    }
    ends: list[tuple[Literal["left", "right"], int]] = [("left", 9), ("right", -9)]
    cut: list[tuple[Literal["left", "right"], float]] = [("left", low), ("right", high)]
    layers = [
        alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=theme.line).encode(
            x=alt.X("zero:Q", **on_axis)
        ),
        base.transform_filter(controls).mark_rule(color=grey, opacity=0.55).encode(
            x=alt.X("low:Q", **on_axis), x2=alt.X2("high:Q")
        ),
        base.transform_filter(profile).mark_rule(color=own, strokeWidth=3).encode(
            x=alt.X("low:Q", **on_axis), x2=alt.X2("high:Q")
        ),
        base.mark_point(size=55, filled=True, opacity=1).encode(x=x, **named),
        *(base.transform_filter(f"datum.cut_{side}")
          .mark_point(shape=f"triangle-{side}", size=30, filled=True, color=grey, opacity=1)
          .encode(x=alt.XDatum(end, **on_axis)) for side, end in cut if True in set(data[f"cut_{side}"])),
        *(base.transform_filter(f"datum.beyond == '{side}'")
          .mark_text(align=side, baseline="bottom", dx=dx, dy=-3, color=theme.text)
          .encode(x=x, text=alt.Text("its number:N")) for side, dx in ends if side in set(data["beyond"])),
    ]  # fmt: skip
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=ROW_PIXELS * len(groups))


def _reach(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Ends of the axis: 0 and the profile's intervals, and the controls as far as they lie within a margin of these."""

    def ends(kinds: Sequence[str]) -> tuple[float, float]:
        found = [row[name] for row in rows if row["kind"] in kinds for name in ("change", "low", "high")]
        known = [0.0, *(value for value in found if value is not None and math.isfinite(value))]
        return min(known), max(known)

    low, high = ends(["profile"])
    least, most = ends(list(KINDS))
    margin = MARGIN * (high - low)
    return (max(least, low - margin), min(most, high + margin)) if margin else (least, most)


def _beyond(row: dict[str, Any], low: float, high: float, measure: str) -> dict[str, Any]:
    """At which end of the axis a point stands that lies beyond it, and its number (empty for one that has its place);
    at which ends the interval goes on although its point has its place."""
    change = row["change"]
    side = "" if change is None or low <= change <= high else "left" if change < low else "right"
    if side:
        number = words.percent(change, signed=True) if format_of(measure).endswith("%") else f"{change:+.3f}"
        return {"beyond": side, "its number": number, "cut_left": False, "cut_right": False}
    ends = {"cut_left": row["low"] < low, "cut_right": row["high"] > high}
    return {"beyond": "", "its number": "", **ends}


def _place(row: dict[str, Any], by: str | None) -> dict[str, Any]:
    """A row with its names, and its height within its group: the profile above, controls beneath it."""
    name = row["group"]
    if by is not None and name != "all" and " − " not in name:
        name = words.value_name(by, name)
    elif by is not None and name.endswith(" − others"):
        name = f"{words.value_name(by, name.removesuffix(' − others'))} − others"
    kind = row["kind"]
    number = int(row["variant"].rsplit(" ", 1)[-1]) if kind == "random" else 0
    lane = ((number - 1) % 7) / 7
    shift = {"profile": -0.75, "layers": 0.7, "opposite": 0.9}.get(kind, -0.35 + 0.9 * lane)
    finding = "" if row["finding"] is None else "yes" if row["finding"] else f"no: {row['why']}"
    return row | {"group name": name, "who": KINDS[kind], "shift": shift, "said": finding}


def _tooltip(measure: str) -> list[alt.Tooltip]:
    number = format_of(measure)
    return [
        alt.Tooltip("group name:N", title=" "),
        alt.Tooltip("variant:N", title="steering"),
        *(alt.Tooltip(f"{name}:Q", format=number) for name in ("change", "low", "high")),
        alt.Tooltip("units:Q", title="prompts (translations are one)"),
        alt.Tooltip("said:N", title="finding"),
    ]


def dose_chart(
    table: pa.Table, role: str, *, by: str | None = None, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """The effect or the side effect at each dose with its interval, and random draws as grey points.

    A chart for each: charts above one another in one picture can't take the width of their place.

    Args:
        role: `effect` or `side effect`.
        by: the column that groups are values of, for their names.
        table: as `dose_table` gives it. Both roles have one scale where they show the same measure.
    """
    rows = table.to_pylist()
    measures = {row["role"]: row["measure"] for row in rows}
    same = len(set(measures.values())) == 1
    ends = [row[end] for row in rows for end in ("low", "high", "change") if math.isfinite(row[end])]
    domain = [min([0.0, *ends]), max([0.0, *ends])] if same else None
    panel = _panel(rows, role, measures[role], by, domain, theme)
    return finish(panel, theme, width=width, height=PANEL_PIXELS)


def _panel(
    rows: Sequence[dict[str, Any]],
    role: str,
    measure: str,
    by: str | None,
    domain: list[float] | None,
    theme: Theme,
) -> alt.LayerChart:
    mine = [row for row in rows if row["role"] == role]
    data = pd.DataFrame(mine)
    data["who"] = [KINDS["profile" if row["draw"] is None else "random"] for row in mine]
    data["own"] = [row["draw"] is None for row in mine]
    color = theme.steered if role == "effect" else theme.text
    scale = alt.Scale(domain=domain) if domain else alt.Scale(zero=True)
    group = mine[0]["group"]
    group = group if group in ("all", "others") else words.value_name(by or "", group)
    title = f"{role} on {group}: {label_of(measure)}"
    y = alt.Y("change:Q", title="change", scale=scale, axis=change_axis(measure))
    doses = sorted({row["dose"] for row in mine})
    x = alt.X(
        "dose:Q", title="dose", axis=alt.Axis(values=doses, format="~g"),
        scale=alt.Scale(domain=[doses[0], doses[-1]], nice=False, zero=False, padding=14),
    )  # fmt: skip
    numbers = [alt.Tooltip(f"{name}:Q", format=format_of(measure)) for name in ("change", "low", "high")]
    tooltip = [alt.Tooltip("who:N", title=" "), alt.Tooltip("dose:Q"), *numbers]
    own = alt.Chart(data).transform_filter("datum.own").encode(x=x, tooltip=tooltip)
    layers = [
        alt.Chart(data).transform_filter("!datum.own").mark_point(
            color=theme.mark, size=34, filled=True, opacity=0.7
        ).encode(x=x, y=y, tooltip=tooltip),
        own.mark_area(color=color, opacity=0.18).encode(
            y=alt.Y("low:Q", title="change", scale=scale), y2=alt.Y2("high:Q")
        ),
        own.mark_line(color=color, point=alt.OverlayMarkDef(color=color, size=40)).encode(y=y),
    ]  # fmt: skip
    return alt.LayerChart(layer=layers, title=title)
