"""What a first visitor sees: two sentences, a figure of the sample, three doors and a tour."""

from __future__ import annotations

import streamlit as st

from ....store.library import TraceSummary
from ....store.schema import Cell
from ...figures.bars import share_bars
from ...sentences import load as sentences
from ...shell import messages, sources, tour, travel
from ...shell.draw_chart import draw_chart
from ...shell.page_context import current_theme
from ...shell.show import side_by_side
from .tour_stops import STOPS

SHOWN = Cell("decoder", 0, 9)
"""An expert of the sample that some languages use for most of their tokens and others hardly ever."""
FIRST_DOOR = "Explore the sample"
DOORS = (
    '<p class="ms-doors"><a href="#trace-a-model">Trace my model</a>'
    '<a href="#import-a-recording">Import a recording</a></p>'
)


def draw(known: dict[str, TraceSummary]) -> None:
    """Draw it where the library holds no trace of the visitor's own."""
    sample = next((name for name, summary in known.items() if summary.sample), None)
    if sample is None or len(known) > 1:
        return
    left, right = side_by_side([2, 3], key="start")
    with left:
        messages.say(
            "A Mixture-of-Experts model sends each token to a few of its experts. moescope records which, shows what "
            "that depends on, and lets you change it in the running model."
        )
        st.button(FIRST_DOOR, key="door-explore", type="primary", icon=":material/grid_on:", on_click=travel.to,
                  args=("heatmap",), kwargs={"trace": sample})  # fmt: skip
        st.html(DOORS)
        st.button("Take the tour of six stops", key="door-tour", icon=":material/tour:", on_click=tour.begin,
                  args=(STOPS,))  # fmt: skip
    with right, messages.guarded("The figure of the sample could not be drawn"):
        table = sources.view(
            known[sample].url, "expert-shares", by="language", layer=SHOWN.layer, expert=SHOWN.expert
        )
        said = sentences.by_value(table, "language", SHOWN.layer, SHOWN.expert)
        draw_chart(share_bars(table, "language", theme=current_theme()), key="start-figure", alt=said)
        messages.say(said)
