"""Structure: one question at a time about how routing is structured, and a box that finds an expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ...shell import messages
from ...shell.page_context import PageContext
from .. import expert_drawer
from . import explains, find, load_course, local, point_map, reuse, specialised, timeline, ways


@dataclass(frozen=True, kw_only=True)
class Question:
    """One part of the page."""

    asks: str
    draw: Callable[[PageContext], None]
    there: Callable[[PageContext], bool] = lambda _: True
    """Whether the trace has what the question is about; it is not offered elsewhere."""


QUESTIONS: Mapping[str, Question] = {
    "What explains it": Question(
        asks="How much of a layer's routing does the token id alone explain?",
        draw=explains.draw,
    ),
    "Specialisation": Question(
        asks="Which experts belong to a language, a group, a tag?",
        draw=specialised.draw,
    ),
    "Paths": Question(asks="Which ways do tokens take through the layers?", draw=ways.draw),
    "Consistency and caches": Question(
        asks="Can a handful of experts serve the next tokens?",
        draw=local.draw,
    ),
    "Map of experts": Question(asks="Which experts respond to the same?", draw=point_map.draw),
    "Load": Question(
        asks="Does the load change over the run, and is an imbalance one prompt's doing?",
        draw=load_course.draw,
    ),
    "Timeline": Question(
        asks="How does the use of the experts change along a step, a level, an age, a day?",
        draw=timeline.draw,
    ),
    "Reuse": Question(
        asks="Whose experts does a layer use, its own or a neighbour's?", draw=reuse.draw, there=reuse.there
    ),
}
"""By the name that the address and the page show."""
FIRST = next(iter(QUESTIONS))


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Structure", anchor=False)
    if not context.routers():
        messages.empty(
            "No router in the layer window",
            "This page measures the routing of the layers in the window of the bar above.",
            todo="Widen the layer window.",
        )
        return
    place, opened = find.draw(context)
    if opened:
        _drawer(context, place)
    offered = [name for name, one in QUESTIONS.items() if one.there(context)]
    chosen = st.segmented_control(
        "Question", offered, default=FIRST, key="question", bind="query-params", required=True,
        label_visibility="collapsed",
    ) or FIRST  # fmt: skip
    question = QUESTIONS[chosen]
    st.subheader(question.asks, anchor=False)
    with messages.guarded(f"{chosen} could not be drawn"):
        question.draw(context)
    if not opened:
        _drawer(context, place)


def _drawer(context: PageContext, place: DeltaGenerator) -> None:
    """The expert that the address names."""
    if cell := expert_drawer.chosen():
        with place:
            expert_drawer.draw(context, cell)
