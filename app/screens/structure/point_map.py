"""All experts of all layers as points; a click opens one, a box or lasso makes a set for steering."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store.schema import LayerExpert
from ....store.views.structure.expert_map import TOKEN
from ...figures.structure.expert_scatter import Colour, expert_scatter, expert_scatter_still
from ...sentences import structure as sentences
from ...shell import link_check, messages, show
from ...shell.page_context import PageContext
from ...steering import offer
from ...text import words
from .. import expert_drawer
from .parts import nothing, told

MEANS = {
    "layer": "Colour: layers, light at the input.",
    "load": "Colour: load against an even one, from an eighth (light) to eight times (dark).",
    "tag": "Colour: the value for which an expert is used most against its share.",
}
COLOURS: dict[Colour, str] = {"layer": "layer", "load": "load", "tag": "what it is used for most"}
RULES = {"off": "off", "on": "always on", "zero": "weight 0"}


def draw(context: PageContext) -> None:
    """The map, and what to do with the points that are selected."""
    columns = context.tags()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        by = link_check.selectbox("Placed by", [*columns, TOKEN], key="placed", what="the column", width=190,
                                  format_func=lambda name: "frequent tokens" if name == TOKEN else name)  # fmt: skip
        colour: Colour = st.segmented_control(
            "Colour", list(COLOURS), default="tag", key="colour", bind="query-params", required=True,
            format_func=COLOURS.__getitem__,
        ) or "tag"  # fmt: skip
    link_check.tell("placed")
    with messages.loading(height=560):
        table = context.in_window(context.view("expert-map", by=by))
    if nothing(table):
        return
    points = show.plotly(
        lambda theme: expert_scatter(table, by=by, colour=colour, theme=theme),
        lambda theme: expert_scatter_still(table, by=by, colour=colour, theme=theme),
        table, name=f"experts-by-{by}", key="points", select=True,
        title=f"All experts, placed by what they respond to ({by})",
        say=told(
            f"{sentences.expert_map(table, by)} Points near one another are used for the same. Click one to open "
            "it; the wheel zooms, dragging moves the map; a box or a lasso, from the bar above it, selects some. "
            f"{MEANS[colour]}", table,
        ),
        python=context.snippet("expert-map", by=by),
    )  # fmt: skip
    _selected(context, points)


def _selected(context: PageContext, points: list[dict[str, Any]]) -> None:
    cells = [tuple(point["customdata"]) for point in points if len(point.get("customdata") or ()) == 3]
    if len(cells) == 1:
        stream, layer, expert = cells[0]
        expert_drawer.choose([{"stream": stream, "layer": layer, "expert": expert}], place="points")
    if len(cells) < 2:
        return
    chosen = [LayerExpert(int(layer), int(expert)) for _, layer, expert in cells]
    messages.say(f"{words.amount(len(chosen), 'expert')} selected: {offer.listed(chosen)}.")
    rule = st.segmented_control("As", list(RULES), default="off", key="points rule", required=True,
                                format_func=RULES.__getitem__) or "off"  # fmt: skip
    offer.offer(context, f"{len(chosen)} experts of the map, {RULES[rule]}", rule, chosen, key="points")
