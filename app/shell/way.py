"""The question that each page answers, and the page that answers the next one."""

from __future__ import annotations

import html
from typing import NamedTuple

import streamlit as st

from . import travel


class Step(NamedTuple):
    """One page on the way."""

    asks: str
    then: str
    """The page of the next question."""
    leads: str
    """What is done there, as its button says."""


WAY = {
    "library": Step("Which recordings are there, and how is a new one made?", "heatmap", "See which experts are used"),
    "heatmap": Step("Which experts are used, and how evenly?", "tokens", "See which tokens they take"),
    "tokens": Step("Which experts does each token of a text go to?", "structure", "Ask what explains the choice"),
    "structure": Step("How is routing structured?", "alignment", "Compare languages"),
    "alignment": Step("How far does each language's routing depart from another's?", "resonance",
                      "Contrast two groups of prompts"),
    "resonance": Step("Which experts respond to one group of prompts more than to another?", "steer",
                      "Try what they do in a live model"),
    "compare": Step("How far does the routing of two traces agree?", "reports", "Collect figures in a report"),
    "steer": Step("What changes when experts are switched off, on or shifted?", "reports",
                  "Collect figures in a report"),
    "deploy": Step("Where should experts be placed, and what can go?", "reports", "Collect figures in a report"),
    "reports": Step("What was found, in an order that others can read?", "data", "Ask the tables yourself"),
    "data": Step("What do the tables of the trace hold?", "heatmap", "Back to the map"),
}  # fmt: skip


def ask(page: str) -> None:
    """The question, above the title."""
    if step := WAY.get(page):
        st.html(f'<p class="ms-asks">{html.escape(step.asks)}</p>')


def lead_on(page: str) -> None:
    """The next step, at the end of the page."""
    if step := WAY.get(page):
        with st.container(key="next-step"):
            st.button(step.leads, key=f"next-{page}", icon=":material/arrow_forward:", type="tertiary",
                      on_click=travel.to, args=(step.then,))  # fmt: skip
