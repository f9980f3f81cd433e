"""Which experts belong to a tag: information by layer, and each expert's spread over its values."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ...figures.routing_map import Hover, routing_map
from ...figures.structure import over_layers
from ...sentences import structure as sentences
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...text import words
from .. import expert_drawer
from .parts import nothing, tag_box, told

HOVER = (
    Hover(column="most", title="most for"),
    Hover(column="most_share", title="share there", format=".1%"),
    Hover(column="least", title="least for"),
    Hover(column="least_share", title="share there", format=".1%"),
    Hover(column="chance", title="even routing", format=".1%"),
)


def draw(context: PageContext) -> None:
    """The map of spreads, then the information of the tag by layer."""
    by = tag_box(context)
    if by is None:
        return
    with messages.loading(height=420):
        spread = context.in_window(context.view("specialisation", by=by))
        information = context.in_window(context.view("tag-information", by=by))
    if nothing(spread):
        return
    points = show.chart(
        lambda theme: routing_map(
            spread, "spread", theme=theme, label=f"spread over {by} (standard deviation ÷ mean)", value_format=".2f",
            hover=_recorded(spread),
        ),
        spread, name=f"specialisation-by-{by}", key="specialisation", select="cell",
        title=f"Spread of each expert over {by}", say=told(sentences.spread(spread, by), spread),
        python=context.snippet("specialisation", by=by),
    )  # fmt: skip
    expert_drawer.choose(points, place="specialisation")
    st.subheader(f"How much does the {words.label(by)} of a prompt say of its experts?", anchor=False)
    if information.num_rows:
        show.chart(
            lambda theme: over_layers.information_lines(information, theme=theme), information,
            name=f"information-of-{by}", title=f"What the {by} of a prompt says of its experts, by layer",
            say=told(sentences.information(information, by), information),
            python=context.snippet("tag-information", by=by),
        )  # fmt: skip
    else:
        messages.say(sentences.information(information, by))


def _recorded(table: Any) -> list[Hover]:
    return [line for line in HOVER if table[line.column].null_count < table.num_rows]
