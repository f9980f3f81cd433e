"""Resonance: which experts respond to one group of prompts more than to another, and how surely."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store.views.resonance.resonance import SELF_DEFINED, answers_counted
from ...sentences import resonance as sentences
from ...shell import link_check, messages, token_span
from ...shell.page_context import PageContext
from .. import expert_contrast, expert_drawer
from . import first_look, maps, scan, second
from . import groups as resonance_groups
from . import top as resonance_top

RANKINGS = {"absolute": "either way", "target": "towards A", "rest": "towards B"}


def page(context: PageContext) -> None:
    """Draw the page."""
    st.title("Resonance", anchor=False)
    if context.trace.num_prompts < 2 or not context.routers():
        messages.empty(
            "Nothing to contrast",
            "This page contrasts two groups of prompts, and this trace has "
            f"{'no router in the layer window' if context.trace.num_prompts > 1 else 'fewer than two prompts'}.",
            todo="Trace a prompt set with a column group (or language, or any tag) of two or more values.",
        )
        return
    told, in_vain = st.empty(), st.empty()
    # Folded to the line above it, so that the figure comes first; open where the groups are still to be named.
    with st.expander(
        "Change the groups, the measure or the threshold", expanded=_asks(), key="contrast-controls"
    ):
        contrast = resonance_groups.choose(context)
        with in_vain:  # above the fold, which may be closed
            link_check.tell("groups", "contrast", "target", "rest")
        if contrast is None:
            return
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            params = contrast.params | _controls(context, answers=contrast.params["by"] == "class")
            limit = scan.threshold(params["measure"])
        if not context.weighted:
            messages.say(f"{context.name} holds no gate weights: groups cannot be contrasted by them.")
    link_check.tell("of map")
    with told:
        messages.say(
            sentences.asked(contrast.names, _sizes(contrast), scan.MEASURES[params["measure"]], limit)
        )
    if answers_counted(context.params("resonance", **params)) and _has_answers(context):
        messages.note("partial", f"{SELF_DEFINED[:1].upper()}{SELF_DEFINED[1:]}")
    table = None
    with messages.guarded("The groups could not be contrasted"):
        table = first_look.then_whole(context, contrast, params)
    if table is None:
        return
    expert_contrast.remember(context, params, contrast.names)
    boxed = scan.draw(context, table, contrast, params, limit)
    maps.draw(context, table, contrast, params)
    resonance_top.draw(context, table, contrast, params, limit, boxed)
    second.draw(context, table, contrast, params)
    if cell := expert_drawer.chosen():
        expert_drawer.draw(context, cell, over_map=True)


def _asks() -> bool:
    """Whether the groups come from something that the reader must name first."""
    way = st.session_state.get("groups") or st.query_params.get("groups")
    return way not in (None, "tag")


def _sizes(contrast: resonance_groups.Contrast) -> tuple[int, int]:
    return len(contrast.ids("target")), len(contrast.ids("rest"))


def _has_answers(context: PageContext) -> bool:
    """Whether anything was generated or completed in this trace: else there are prompt tokens only."""
    prompts = context.trace.prompts()
    return any(prompts[name].null_count < prompts.num_rows for name in ("generated", "completion"))


def _controls(context: PageContext, *, answers: bool) -> dict[str, Any]:
    """Measure, span and ranking as parameters of the view.

    Args:
        answers: whether the groups are classes of answers; then the tokens of the prompt alone count at first.
    """
    measures = [name for name in scan.MEASURES if context.weighted or not name.startswith("weight")]
    measure = link_check.selectbox(
        "Measure",
        measures,
        key="of map",
        what="the measure",
        width=190,
        format_func=scan.MEASURES.__getitem__,
    )
    span = token_span.choose(context, last=True, default="prompt" if answers else token_span.BAR)
    top = st.number_input("top N", 1, 500, 20, key="top", bind="query-params", width=110)
    ranking = st.selectbox(
        "ranked",
        list(RANKINGS),
        key="ranking",
        bind="query-params",
        width=140,
        format_func=RANKINGS.__getitem__,
    )
    numbers = [router.layer for router in context.routers()]
    layers = f"{min(numbers)}:{max(numbers)}"
    return {"measure": measure, "layers": layers, "among": int(top), "ranking": ranking, **span}
