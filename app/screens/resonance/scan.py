"""The scan: layers × experts of a contrast, a threshold with a live count, the volcano, scores by layer."""

from __future__ import annotations

from typing import Any

import altair as alt
import pyarrow as pa
import streamlit as st

from ....store.notes import notes_of
from ....store.schema import LayerExpert
from ...figures import resonance as figures
from ...figures.routing_layout import lay_out
from ...figures.routing_map import Hover, routing_map
from ...figures.thresholds import Threshold, ThresholdKind, only_survivors
from ...sentences import resonance as sentences_resonance
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...shell.show import side_by_side
from .. import expert_drawer
from .groups import Contrast

MEASURES = {
    "rate": "share of tokens",
    "weight_rate": "gate weight a token",
    "count": "tokens",
    "weight": "gate weight",
}
QS = [0.001, 0.01, 0.05, 0.1, 0.2, 0.5]
KINDS: dict[ThresholdKind, str] = {"q": "q", "score": "|score|", "effect": "|effect|"}
BOX = "box"
"""Name of the selection that a drag over the scan makes."""
HOVER = [
    Hover(column="score", title="score", format="+.4f"),
    Hover(column="effect", title="effect (sd)", format="+.2f"),
    Hover(column="p", title="p", format=".2g"),
    Hover(column="q", title="q", format=".2g"),
    Hover(column="stability", title="in top N of bootstraps", format=".0%"),
    Hover(column="target_mean", title="mean of A", format=".4f"),
    Hover(column="rest_mean", title="mean of B", format=".4f"),
]


def threshold(measure: str) -> Threshold:
    """Draw what an expert must reach to count as standing out."""
    kind: ThresholdKind = st.segmented_control(
        "Stands out by", list(KINDS), default="q", key="by-what", bind="query-params", required=True,
        format_func=KINDS.__getitem__,
    ) or "q"  # fmt: skip  # pyright: ignore[reportAssignmentType]
    if kind == "q":
        value = st.select_slider("q at most", QS, value=0.05, key="q", bind="query-params", width=230)
    elif kind == "effect":
        value = st.slider("standard deviations, at least", 0.0, 5.0, 0.8, 0.1, key="effect",
                          bind="query-params", width=230)  # fmt: skip
    elif measure.endswith("rate"):
        value = st.slider(
            "|score| at least", 0.0, 1.0, 0.1, 0.01, key="score", bind="query-params", width=230
        )
    else:
        value = st.number_input(
            "|score| at least", 0.0, None, 1.0, key="size", bind="query-params", width=230
        )
    return Threshold(kind=kind, value=float(value))


def draw(
    context: PageContext, table: pa.Table, contrast: Contrast, params: dict[str, Any], limit: Threshold
) -> list[LayerExpert]:
    """Draw the scan and the two figures beneath it; returns the cells in a box that was dragged."""
    measure = params["measure"]
    a, b = contrast.names
    figure = st.container()
    with st.container(horizontal=True, vertical_alignment="center", gap="large"):
        only = st.toggle("hide the others", key="only", bind="query-params")
        dragging = st.segmented_control(
            "On the map", ["cell", BOX], default="cell", key="mouse", bind="query-params", required=True,
            format_func={"cell": "click opens an expert", BOX: "drag selects experts"}.__getitem__,
            label_visibility="collapsed",
        ) == BOX  # fmt: skip
        messages.say(sentences_resonance.survivors(table, limit))
    shown = only_survivors(table, limit) if only else table
    with figure:
        points = show.chart(
            lambda theme: boxed(routing_map(
                shown, "score", theme=theme, label=f"score: {MEASURES[measure]}, A − B",
                value_format="+.0%" if measure == "rate" else "+.2f", diverging=True, hover=HOVER,
            ), dragging),
            table, name=f"resonance-{a}", key=f"scan-{BOX if dragging else 'cell'}",
            select=BOX if dragging else "cell", title=f"Resonance: {a} against {b}",
            say=sentences_resonance.scan(table, limit, a, b, measure == "rate"),
            python=context.snippet("resonance", **params),
        )  # fmt: skip
    messages.note("plain", " ".join(notes_of(table)))
    if not dragging:
        expert_drawer.choose(points, place="scan")
    _two_more(table, limit, context.snippet("resonance", **params))
    return in_box(shown, points) if dragging else []


def boxed(chart: alt.LayerChart, dragging: bool) -> alt.LayerChart:
    """The map with a selection by dragging, if asked for."""
    if dragging:
        chart.layer[0] = chart.layer[0].add_params(alt.selection_interval(name=BOX, encodings=["x", "y"]))
    return chart


def in_box(table: pa.Table, points: list[dict[str, Any]]) -> list[LayerExpert]:
    """The cells that a dragged box touches: ranges of `x` (expert) and `y` (row) in cell units."""
    if not points or not table.num_rows:
        return []
    (left, right), (low, high) = (sorted(points[0][axis]) for axis in ("x", "y"))
    layout = lay_out(table, "score")
    return sorted(
        LayerExpert(layout.routers[row].layer, int(expert))
        for row, expert in zip(layout.row_C, layout.expert_C, strict=True)
        if left < expert + 0.5 and expert - 0.5 < right and low < row + 0.5 and row - 0.5 < high
    )


def _two_more(table: pa.Table, limit: Threshold, python: str) -> None:
    left, right = side_by_side(2, key="scan")
    with left:
        show.chart(
            lambda theme: figures.volcano(table, threshold=limit, theme=theme), table,
            name="resonance-volcano",
            title="Score and evidence of every expert", say=sentences_resonance.volcano(table, limit), python=python,
        )  # fmt: skip
    with right:
        show.chart(
            lambda theme: figures.by_layer(table, threshold=limit, theme=theme), table,
            name="resonance-layers",
            title="Scores by layer", say=sentences_resonance.layers(table, limit), python=python,
        )  # fmt: skip
