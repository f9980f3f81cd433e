"""Alignment: how far each language's routing departs from a pivot's, where, and whether it matters."""

from __future__ import annotations

from typing import Any

import streamlit as st

from .. import drawer, link_check, spans, states, words
from ..frame import Frame
from ..layout import side_by_side
from . import alignment_colors, alignment_experts, alignment_lines, alignment_pairs

ENTROPY = ("routing-entropy", "entropy", "Routing entropy", "entropy of a sequence's mean p, nats")
CONSISTENCY = (
    "routing-consistency", "consistency", "Routing consistency", "experts that two tokens share",
)  # fmt: skip


def page(frame: Frame) -> None:
    """Draw the page."""
    st.title("Alignment", anchor=False)
    languages = frame.trace.tags().get("language", [])
    if len(languages) < 2 or not frame.routers():
        why = "there is no router in the layer window" if len(languages) > 1 else (
            f"the prompts of this trace have {'one language' if languages else 'no languages'}"
        )  # fmt: skip
        states.empty(
            "Nothing to align",
            f"This page compares translations of one text, and {why}.",
            todo="Trace a prompt set with columns language and parallel_id, such as the bundled udhr.csv.",
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        params = _controls(frame, languages)
        table = alignment_colors.upload()
        known = alignment_colors.known_scores(frame, table)
        colors = alignment_colors.choose(frame, table, known)
        alignment_lines.choose_beside(frame)
    link_check.tell("pivot")
    window = alignment_lines.draw(frame, params, colors)
    if window is None:
        return
    left, right = side_by_side(2, key="matrix")
    with left, states.guarded("The matrix could not be made"):
        alignment_pairs.matrix(frame, params, window)
    with right, states.guarded("The scores could not be shown"):
        alignment_pairs.scores(frame, params, window, known)
    for place, measure in zip(side_by_side(2, key="measures"), (ENTROPY, CONSISTENCY), strict=True):
        with place, states.guarded(f"{measure[2]} could not be shown"):
            alignment_pairs.by_language(frame, *measure, params, colors)
    alignment_experts.draw(frame, params, window)
    if cell := drawer.chosen():
        drawer.draw(frame, cell)


def _controls(frame: Frame, languages: list[str]) -> dict[str, Any]:
    """Pivot and tokens as parameters of the views."""
    first = languages.index("en") if "en" in languages else 0
    named = {code: words.option("language", code) for code in languages}
    pivot = link_check.selectbox(
        "Pivot language", languages, key="pivot", what="the pivot", index=first, width=190,
        format_func=named.__getitem__,
    )  # fmt: skip
    numbers = [router.layer for router in frame.routers()]
    return {"pivot": pivot, "layers": f"{min(numbers)}:{max(numbers)}"} | spans.choose(frame)
