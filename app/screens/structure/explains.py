"""How much of routing the token id alone explains, and what each token chooses."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ....store.notes import notes_of
from ...figures.structure import over_layers
from ...sentences import structure as sentences
from ...shell import messages, show, sources
from ...shell.draw_chart import draw_chart
from ...shell.page_context import PageContext
from .. import expert_drawer, token_names
from .parts import nothing, told, window_text

FOLLOWING = {"input": "the token itself", "next": "the token that follows"}
TITLE = "Share of the first expert that a label explains, by layer"
POINTS, WORKING = "Layer by layer", "95 % intervals over prompts"
STEPS = 12
"""Times that the bar moves while intervals are worked out."""


def draw(context: PageContext) -> None:
    """Lines by layer, then the vocabulary of one layer; the intervals of the lines come last."""
    by = "language" if "language" in context.tags() else next(iter(context.tags()), None)
    ask: dict[str, Any] = {"by": by, "layers": window_text(context)}
    what = f"{sources.version(context.url)} {context.snippet('explained', **ask)}"
    place = st.empty()
    if st.session_state.get("explained") == what:
        _lines(context, ask, place)
        _vocabulary(context)
        return
    with place.container():
        bar = st.progress(0.0, text=POINTS)
        with messages.loading(height=300):
            _prepare(context, ask, bar, POINTS)
            points = context.view("explained", intervals=False, **ask)
    place.empty()
    if nothing(points):
        return
    with place.container():
        theme = context.theme
        draw_chart(over_layers.explained_lines(points, theme=theme), alt=TITLE)
        messages.say(sentences.explained(points))
        bar = st.progress(0.0, text=WORKING)
    _vocabulary(context)
    _prepare(context, ask, bar, WORKING)
    st.session_state["explained"] = what
    _lines(context, ask, place)


def _prepare(context: PageContext, ask: dict[str, Any], bar: DeltaGenerator, what: str) -> None:
    """Work out points or intervals, a few layers at a time; the trace remembers those of the layers before."""
    numbers = [router.layer for router in context.routers()]
    for done in range(1, STEPS):
        if upto := len(numbers) * done // STEPS:
            window = f"{numbers[0]}:{numbers[upto - 1]}"
            context.view("explained", by=ask["by"], layers=window, intervals=what == WORKING)
            bar.progress(upto / len(numbers), text=what)


def _lines(context: PageContext, ask: dict[str, Any], place: DeltaGenerator) -> None:
    with place.container():
        table = context.view("explained", **ask)
        if nothing(table):
            return
        show.chart(
            lambda theme: over_layers.explained_lines(table, theme=theme), table, name="explained", title=TITLE,
            say=told(sentences.explained(table), table), python=context.snippet("explained", **ask),
        )  # fmt: skip


def _vocabulary(context: PageContext) -> None:
    st.subheader("Which tokens choose an expert most reliably?", anchor=False)
    layers = [router.layer for router in context.routers()]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        layer = st.selectbox("Layer", layers, key="vocabulary layer", width=110)
        of = st.segmented_control(
            "Of", list(FOLLOWING), default="input", key="of", bind="query-params", required=True,
            format_func=FOLLOWING.__getitem__,
        ) or "input"  # fmt: skip
        least = int(
            st.number_input(
                "at least … occurrences", 1, 100_000, 20, key="least", bind="query-params", width=160
            )
        )
    ask = {"layer": layer, "of": of, "least": least, "limit": 100}
    with messages.loading(height=260):
        table = context.view("vocabulary", **ask)
    if not table.num_rows:
        why = (*notes_of(table), "")[0]
        rare = f"No token id occurs {least} times in the selection."
        messages.say(why if why.startswith("The tokens have no ids") else rare)
        return
    beaten = sum(table["beats_luck"].to_pylist())
    chosen = token_table(
        context, table, name=f"vocabulary-layer-{layer}", key="vocabulary", python=context.snippet("vocabulary", **ask),
        say=f"{beaten} of these {table.num_rows} tokens choose their expert more often than 95 % of equally rare "
        "tokens would if the router ignored the token. Click a row to open the expert.",
    )  # fmt: skip
    expert_drawer.choose_rows(table, chosen, place="vocabulary")


def token_table(
    context: PageContext, table: pa.Table, *, name: str, key: str, say: str, python: str
) -> list[int]:
    """A table of the view `vocabulary`, whose rows can be chosen."""
    shown = table.set_column(3, "token", pa.array(token_names.named(context, table)))
    percent = st.column_config.NumberColumn(format="percent")
    return show.table(
        shown,
        name=name,
        key=key,
        say=say + token_names.explained(table),
        python=python,
        select="single-row",
        height=300,
        order=[
            "layer",
            "token",
            "expert",
            "share",
            "low",
            "high",
            "layer_share",
            "luck_high",
            "occurrences",
            "prompts",
        ],
        columns={
            "share": percent,
            "low": st.column_config.NumberColumn("95 % from", format="percent"),
            "high": st.column_config.NumberColumn("to", format="percent"),
            "layer_share": st.column_config.NumberColumn("of all tokens", format="percent"),
            "luck_high": st.column_config.NumberColumn("luck, 95 %", format="percent"),
        },
    )
