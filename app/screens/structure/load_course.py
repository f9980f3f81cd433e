"""Load over the run, by stretch of prompts; and each layer without its most influential prompt."""

from __future__ import annotations

import streamlit as st

from ....store.arrow import pc
from ...figures.structure.load_course import drift_map
from ...sentences import structure as sentences
from ...shell import messages, show
from ...shell.page_context import PageContext
from .parts import nothing, told

MEASURES = {"max_over_mean": "busiest ÷ mean", "moved": "moved against the whole run", "gini": "Gini"}


def draw(context: PageContext) -> None:
    """The map of stretches, the whole run in numbers, the prompts behind an imbalance."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        measure = st.segmented_control(
            "Colour", list(MEASURES), default="max_over_mean", key="drift", bind="query-params", required=True,
            format_func=MEASURES.__getitem__,
        ) or "max_over_mean"  # fmt: skip
        batches = int(
            st.number_input("stretches", 2, 100, 10, key="stretches", bind="query-params", width=120)
        )
    with messages.loading(height=300):
        table = context.in_window(context.view("load-drift", batches=batches))
        influence = context.in_window(context.view("load-influence"))
    if nothing(table):
        return
    show.chart(
        lambda theme: drift_map(table, value=measure, label=MEASURES[measure], theme=theme), table, name="load-drift",
        title="Load over the course of the run, by layer",
        say=told(sentences.drift(table), table), python=context.snippet("load-drift", batches=batches),
    )  # fmt: skip
    whole = table.filter(pc.is_null(table["batch"]))
    number = st.column_config.NumberColumn
    show.table(
        whole, name="load-whole-run", height="content" if whole.num_rows < 12 else 300,
        order=["layer", "max_over_mean", "cv", "gini", "entropy_normalised", "dead", "near_dead", "tokens"],
        columns={
            "max_over_mean": number("busiest ÷ mean", format="%.2f"), "cv": number("CV", format="%.2f"),
            "gini": number("Gini", format="%.2f"), "entropy_normalised": number("entropy ÷ log E", format="%.3f"),
            "near_dead": "near-dead", "tokens": number(format="localized"),
        },
        say="Near-dead: used less than a tenth of an even share; the dead are among them.",
    )  # fmt: skip
    show.table(
        influence, name="load-influence", height="content" if influence.num_rows < 12 else 300,
        order=["layer", "max_over_mean", "busiest", "prompt_id", "without", "prompt_share", "low", "high"],
        columns={
            "max_over_mean": number("busiest ÷ mean", format="%.2f"), "busiest": "busiest expert",
            "prompt_id": "most influential prompt", "without": number("without it", format="%.2f"),
            "prompt_share": number("its share of that expert", format="percent"),
            "low": number("without any one: least", format="%.2f"), "high": number("most", format="%.2f"),
        },
        say=told(sentences.influence(influence), influence), python=context.snippet("load-influence"),
    )  # fmt: skip
