"""A contrast of many experts in two steps: a picture from few permutations within seconds, then the whole test."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...figures.routing_map import routing_map
from ...shell import messages
from ...shell.draw_chart import draw_chart
from ...shell.page_context import PageContext
from ...text import words
from .groups import Contrast

MANY = 3_000
"""Experts from which on the whole test takes seconds."""
QUICK = {"permutations": 100, "stability": 0, "refine": False}
_SEEN = "contrasts seen"


def then_whole(context: PageContext, contrast: Contrast, params: dict[str, Any]) -> pa.Table:
    """The view `resonance`; until it is there, the scores stand on the page, which no permutation changes."""
    key = repr((context.url, context.params("resonance", **params)))
    seen: set[str] = st.session_state.setdefault(_SEEN, set())
    experts = sum(router.num_experts for router in context.routers())
    place = st.empty()
    if experts < MANY or key in seen:
        with place, messages.loading(height=420):
            table = context.view("resonance", **params)
    else:
        _scores(context, contrast, params, place, experts)
        table = context.view("resonance", **params)
    seen.add(key)
    place.empty()
    return table


def _scores(
    context: PageContext, contrast: Contrast, params: dict[str, Any], place: Any, experts: int
) -> None:
    with place, messages.loading(height=560):
        quick = context.view("resonance", **params, **QUICK)
    with place.container():
        a, b = contrast.names
        draw_chart(
            routing_map(quick, "score", theme=context.theme, label="score: A − B", diverging=True, value_format="+.2f"),
            key="first-look", alt=f"Scores of {a} against {b}",
        )  # fmt: skip
        messages.say(
            f"The scores of {words.count(experts)} experts are final. Their p, q and stability are being computed "
            "(2,000 permutations and 200 bootstraps of the prompts)."
        )
