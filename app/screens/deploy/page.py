"""Deploy: five questions, each with its answer in words, the alternatives beside it, and the file to take away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st

from ...shell import messages
from ...shell.page_context import PageContext
from . import bits, calibrate, offload, place, prune


@dataclass(frozen=True, kw_only=True)
class Question:
    """One tab of the page."""

    asks: str
    draw: Callable[[PageContext], None]


QUESTIONS: Mapping[str, Question] = {
    "Place": Question(asks="On which device should each expert be?", draw=place.draw),
    "Cache and offload": Question(
        asks="How much of what tokens need lies in fast memory?", draw=offload.draw
    ),
    "Prune": Question(asks="Which experts can go?", draw=prune.draw),
    "Bits": Question(asks="How many bits should each expert get?", draw=bits.draw),
    "Merge and calibrate": Question(
        asks="Which experts are alike, and which prompts reach all of them?", draw=calibrate.draw
    ),
}
"""By the name that the address and the page show."""
FIRST = next(iter(QUESTIONS))


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Deploy", anchor=False)
    if not context.routers():
        messages.empty(
            "No router in the layer window",
            "This page decides about the experts of the layers in the window of the bar above.",
            todo="Widen the layer window.",
        )
        return
    chosen = st.segmented_control(
        "Question", list(QUESTIONS), default=FIRST, key="decide", bind="query-params", required=True,
        label_visibility="collapsed",
    ) or FIRST  # fmt: skip
    question = QUESTIONS[chosen]
    st.subheader(question.asks, anchor=False)
    with messages.guarded(f"{chosen} could not be drawn"):
        question.draw(context)
