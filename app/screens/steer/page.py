"""Steer: switch experts off and on, and watch what the model does.

Left the switchboard (`board`) with the panel of further tools at its side (`panel`), right the two answers
(`answers`); each half is a fragment, so that a click on one does not draw the other. The steering itself lives in
`state`.
"""

from __future__ import annotations

import streamlit as st

from ... import ASSETS
from ...shell import messages
from ...shell.page_context import PageContext
from . import answers as steer_answers
from . import board, panel, rules, server, state
from .evaluate import evaluate_tab

ANSWERS, EVALUATE = "answers", "evaluate"
MOST_IN_A_HALF = 96
BESIDE_PANEL = 64
"""Experts of a layer that half the page has room for, and beside the open panel; a wider board takes all of it, with
the answers below."""


def page(context: PageContext) -> None:
    """Draw the page."""
    st.html(ASSETS / "steer.css")
    wrong = state.take_from_address()
    with st.container(horizontal=True, vertical_alignment="center", gap="medium", key="steer-head"):
        st.title("Steer", anchor=False, width="content")
        kind = st.segmented_control(
            "Show", [ANSWERS, EVALUATE], default=ANSWERS, key="steer-show", bind="query-params", required=True,
            label_visibility="collapsed",
        )  # fmt: skip
        served = server.choose(context)
    if wrong:
        messages.card(
            "The profile of this address can't be read", wrong, kind="error",
            todo="The steering on the page is as it was. Ask for the link again, or for the profile as a file.",
        )  # fmt: skip
    server.problems(served)
    if kind == EVALUATE:
        rules.summary()
        state.write_address(context.trace.manifest.model.get("name"))
        made = state.profile(context.trace.manifest.model.get("name"))
        starting = served.live is not None and served.live.state == "starting"
        evaluate_tab(
            made, served.model, served.client, starting=starting, trace=context.trace, name=context.name
        )
        return
    most = max((router.num_experts for router in context.routers()), default=0)
    tool = panel.choose()
    wide = most > (MOST_IN_A_HALF if tool is None else BESIDE_PANEL)
    with st.container(key="steer-halves"):
        if wide:
            left, right = st.container(), st.container()
        else:
            left, right = st.columns([11, 10] if tool is None else [2, 1], gap="large")
    with left:
        board.draw(context, served, tool, wide=wide)
    with right:
        steer_answers.draw(context, served)
