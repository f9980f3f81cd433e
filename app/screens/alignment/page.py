"""Alignment: how far each language's routing departs from a pivot's, where, and whether it matters."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store.errors import NotRecorded
from ...shell import link_check, messages, token_span
from ...shell.page_context import PageContext
from ...shell.show import side_by_side
from ...text import words
from .. import expert_drawer
from . import colors as alignment_colors
from . import experts as alignment_experts
from . import lines, pairs

ENTROPY = ("routing-entropy", "entropy", "Routing entropy", "entropy of a sequence's mean p, nats")
CONSISTENCY = (
    "routing-consistency", "consistency", "Routing consistency", "experts that two tokens share",
)  # fmt: skip


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Alignment", anchor=False)
    languages = context.trace.tags().get("language", [])
    if len(languages) < 2 or not context.routers():
        why = "there is no router in the layer window" if len(languages) > 1 else (
            f"the prompts of this trace have {'one language' if languages else 'no languages'}"
        )  # fmt: skip
        messages.empty(
            "Nothing to align",
            f"This page compares translations of one text, and {why}.",
            todo="Trace a prompt set with columns language and parallel_id, such as the bundled udhr.csv.",
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        params = _controls(context, languages)
        table = alignment_colors.upload()
        known = alignment_colors.known_scores(context, table)
        colors = alignment_colors.choose(context, table, known)
        lines.choose_beside(context)
    link_check.tell("pivot")
    try:
        window = lines.draw(context, params, colors)
    except NotRecorded as error:
        messages.problem(error, doing="No divergence between languages")
        with messages.guarded("Routing consistency could not be shown"):
            pairs.by_language(context, *CONSISTENCY, params, colors)
        return
    if window is None:
        return
    left, right = side_by_side(2, key="matrix")
    with left, messages.guarded("The matrix could not be made"):
        pairs.matrix(context, params, window)
    with right, messages.guarded("The scores could not be shown"):
        pairs.scores(context, params, window, known)
    for place, measure in zip(side_by_side(2, key="measures"), (ENTROPY, CONSISTENCY), strict=True):
        with place, messages.guarded(f"{measure[2]} could not be shown"):
            pairs.by_language(context, *measure, params, colors)
    alignment_experts.draw(context, params, window)
    if cell := expert_drawer.chosen():
        expert_drawer.draw(context, cell)


def _controls(context: PageContext, languages: list[str]) -> dict[str, Any]:
    """Pivot and tokens as parameters of the views."""
    first = languages.index("en") if "en" in languages else 0
    named = {code: words.option("language", code) for code in languages}
    pivot = link_check.selectbox(
        "Pivot language", languages, key="pivot", what="the pivot", index=first, width=190,
        format_func=named.__getitem__,
    )  # fmt: skip
    numbers = [router.layer for router in context.routers()]
    return {"pivot": pivot, "layers": f"{min(numbers)}:{max(numbers)}"} | token_span.choose(context)
