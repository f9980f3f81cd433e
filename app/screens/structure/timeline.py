"""Experts along an axis that is no text: step, noise level, age, day, frame, position."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ...figures.structure.gate_histogram import gate_histogram
from ...figures.structure.timeline import MEASURES, timeline_chart
from ...sentences import timeline as sentences
from ...shell import link_check, messages, show
from ...shell.page_context import PageContext
from .parts import nothing, told

POSITION = "position"
STACKED, LINES = "stacked", "lines"
MOST_VALUES = 24
"""Values of a tag up to which each has a histogram of gate weights."""


def draw(context: PageContext) -> None:
    """Choose axis, layer, measure; the chart, its sentence."""
    layers = [router.layer for router in context.routers()]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        by = link_check.selectbox("Along", [POSITION, *context.tags()], key="by", what="the column", width=190,
                                  format_func=str)  # fmt: skip
        layer = (
            st.selectbox("Layer", layers, key="timeline layer", width=110) if len(layers) > 1 else layers[0]
        )
        kind = st.segmented_control("Drawn", [STACKED, LINES], default=STACKED, key="drawn", bind="query-params",
                                    required=True) or STACKED  # fmt: skip
        heights = [name for name in MEASURES if context.weighted or name != "weight"]
        measure = st.segmented_control(
            "Height", heights, default=_first(context, layer), key=f"height {context.stream}", required=True,
            format_func=MEASURES.__getitem__,
        ) or "use"  # fmt: skip
    link_check.tell("by")
    if not context.weighted:
        messages.say(f"{context.name} holds no gate weights: the mean gate weight cannot be shown.")
    ask: dict[str, Any] = {"by": by, "layer": layer}
    with messages.loading(height=340):
        table = context.view("timeline", **ask)
    if nothing(table):
        return
    show.chart(
        lambda theme: timeline_chart(table, by=by, measure=measure, stacked=kind == STACKED, theme=theme),
        table, name="timeline", title=f"Experts of layer {layer} ({context.stream}) along {by}",
        say=told(sentences.timeline(table, by, measure), table), python=context.snippet("timeline", **ask),
    )  # fmt: skip
    if by != POSITION and _weighted(table) and len(context.trace.tags()[by]) <= MOST_VALUES:
        _weights(context, by, layer, sorted({e for e in table["expert"].to_pylist() if e is not None}))


def _weights(context: PageContext, by: str, layer: int, experts: list[int]) -> None:
    """The histogram of one expert's gate weights, by the values of the axis."""
    st.subheader("How large are the gate weights?", anchor=False)
    expert = st.selectbox(
        "Expert", experts, index=len(experts) - 1, key=f"weights of {context.stream} {layer}", width=110
    )
    ask: dict[str, Any] = {"layer": layer, "expert": expert, "by": by}
    with messages.loading(height=200):
        table = context.view("gate-weights", **ask)
    if nothing(table):
        return
    column = next(name for name in table.column_names if name in (by, f"by:{by}"))
    show.chart(
        lambda theme: gate_histogram(table, by=column, expert=expert, theme=theme), table, name="gate-weights",
        title=f"Gate weights of expert {expert} of layer {layer} ({context.stream}), by {by}",
        say=told(sentences.gate_weights(table, column, expert), table), python=context.snippet("gate-weights", **ask),
    )  # fmt: skip


def _first(context: PageContext, layer: int) -> str:
    """What is shown first: the weight where a router uses all of its experts, so that every share is 1; the shares
    where k varies, whose sum is the number of experts that a token uses."""
    spec = context.trace.router(layer, context.stream)
    if spec.top_k is None:
        return "share"
    return "weight" if spec.top_k == spec.num_experts and context.weighted else "use"


def _weighted(table: pa.Table) -> bool:
    return pc.count(table["weight"]).as_py() > 0
