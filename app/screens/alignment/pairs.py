"""Languages against one another and against a score, in the chosen layers; entropy and consistency."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store.notes import notes_of
from ....store.views.alignment.alignment_scores import correlate
from ...figures import alignment as figures
from ...sentences import alignment as sentences_alignment
from ...shell import messages, show
from ...shell.page_context import PageContext
from .colors import Scores

FEWEST = 3


def matrix(context: PageContext, params: dict[str, Any], window: tuple[int, int]) -> None:
    """Divergence between every two languages."""
    st.subheader("Between languages", anchor=False)
    asked: dict[str, Any] = params | {"layers": _range(window)}
    with messages.loading(height=360):
        table = context.view("alignment-matrix", **asked)
    show.chart(
        lambda theme: figures.matrix(table, theme=theme), table, name=f"alignment-matrix-{_range(window)}",
        key="matrix", title=f"Routing divergence between languages, {_layers(window)}",
        say=sentences_alignment.matrix(table, window), python=context.snippet("alignment-matrix", **asked),
    )  # fmt: skip


def scores(context: PageContext, params: dict[str, Any], window: tuple[int, int], known: Scores) -> None:
    """Score of each language against its mean divergence, with the correlation."""
    st.subheader("Does it go with a score?", anchor=False)
    if not known.of:
        messages.empty(
            "No scores",
            "Prompts with choices and an answer give each language an accuracy when they are traced.",
            todo="Or upload a table of language and score with the button at the top of the page.",
        )
        return
    names = list(known.of)
    name = names[0]
    if len(names) > 1:
        if st.session_state.get("which score") not in [None, *names]:
            del st.session_state["which score"]
        name = st.selectbox("Score", names, key="which score", bind="query-params", width=200) or name
    asked = params | {"layers": _range(window), "scores": known.of[name]}
    points = context.view("alignment-scores", **asked)
    if points.num_rows < FEWEST:
        messages.empty("Too few languages", f"A correlation needs at least {FEWEST} languages with a score.")
        return
    show.chart(
        lambda theme: figures.scatter(points, score_label=name, theme=theme), points, name="alignment-scores",
        key="scores", title=f"{name.capitalize()} against mean divergence, {_layers(window)}",
        say=sentences_alignment.correlations(correlate(points)),
        python=context.snippet("alignment-correlation", **asked),
    )  # fmt: skip
    messages.note("plain", " ".join(notes_of(points)))


def by_language(
    context: PageContext,
    view: str,
    value: str,
    title: str,
    label: str,
    params: dict[str, Any],
    colors: dict[str, Any],
) -> None:
    """A measure of single sequences by layer: entropy, or consistency."""
    st.subheader(title, anchor=False)
    asked = {name: given for name, given in params.items() if name != "pivot"}
    with messages.loading(height=300):
        table = context.view(view, **asked)
    if not table.num_rows:
        messages.empty("Nothing to measure", " ".join(notes_of(table)))
        return
    chances = set(table["chance"].to_pylist()) if "chance" in table.column_names else set()
    chance = chances.pop() if len(chances) == 1 else None
    show.chart(
        lambda theme: figures.by_layer(
            table, value, label=label, theme=theme, chance=chance, legend=False, height=260, **colors
        ),
        table, name=view, title=title, say=sentences_alignment.spread(table, value, chance),
        python=context.snippet(view, **asked),
    )  # fmt: skip


def _range(window: tuple[int, int]) -> str:
    return f"{window[0]}:{window[1]}"


def _layers(window: tuple[int, int]) -> str:
    low, high = window
    return f"layer {low}" if low == high else f"layers {low} to {high}"
