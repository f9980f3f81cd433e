"""Which experts replaced which, and both traces' loads on one colour scale."""

from __future__ import annotations

import streamlit as st

from ....store.compare.loads import side_by_side_loads
from ....store.views.experts.load_difference import with_measure
from ...figures import agreement as figures
from ...figures.multiples import small_maps
from ...figures.routing_map import Hover
from ...sentences import agreement as sentences
from ...shell import link_check, messages, show
from ...shell.comparing import loads_snippet
from ...shell.page_context import PageContext
from ...shell.show import side_by_side
from .. import expert_drawer
from .choice import Choice


def draw(context: PageContext, choice: Choice) -> None:
    """Draw the exchange matrix of a layer beside its largest entries, then the two maps."""
    st.subheader("Which expert replaced which", anchor=False)
    numbers = [router.layer for router in context.routers()]
    layer = link_check.selectbox("Layer", numbers, key="layer", what="the layer", width=120,  # pyright: ignore[reportArgumentType]
                                 index=choice.most_flipped(context, numbers))  # fmt: skip
    link_check.tell("layer", "margin")
    with messages.guarded("The exchange of experts could not be shown"):
        _exchange(context, choice, layer)
    with messages.guarded("The two maps could not be drawn"):
        _maps(context, choice)


def _exchange(context: PageContext, choice: Choice, layer: int) -> None:
    table = choice.view(context, "agreement-experts", layers=str(layer))
    if not table.num_rows:
        messages.say(f"In layer {layer} no expert was replaced by another.")
        return
    experts = context.trace.router(layer, context.stream).num_experts
    left, right = side_by_side((3, 2), key="exchange")
    with left:
        show.chart(
            lambda theme: figures.exchange_map(table, experts, theme=theme), table, name="compare-exchange",
            title=f"Experts of layer {layer} replaced by others", say=sentences.exchange(table),
            python=choice.python(context, "agreement-experts", layers=str(layer)),
        )  # fmt: skip
    with right:
        show.table(
            table.slice(0, 50).select(["from_expert", "to_expert", "count", "share", "uses"]), name="compare-exchanges",
            columns={"from_expert": f"of {context.name}", "to_expert": f"of {context.second_name}",
                     "count": st.column_config.NumberColumn("times", format="%.1f"),
                     "share": st.column_config.NumberColumn("of its uses", format="percent")}, height=360,
        )  # fmt: skip


def _maps(context: PageContext, choice: Choice) -> None:
    st.subheader("Both loads on one scale", anchor=False)
    names = {"a": context.name, "b": str(context.second_name)}
    sides = [with_measure(context.in_window(context.view("load", second=b)), "share") for b in (False, True)]
    both = side_by_side_loads(*sides)
    hover = [
        Hover(column="share_a", title=f"share of tokens, {names['a']}", format=".2%"),
        Hover(column="share_b", title=f"share of tokens, {names['b']}", format=".2%"),
        Hover(column="difference", title="difference, percentage points", format="+.2%"),
        Hover(column="tokens_a", title=f"tokens, {names['a']}", format=",d"),
        Hover(column="tokens_b", title=f"tokens, {names['b']}", format=",d"),
    ]
    points = show.chart(
        lambda theme: small_maps(both, "value", "trace", names, theme=theme, label="share of tokens", hover=hover),  # pyright: ignore[reportArgumentType]
        both, name="compare-loads", title=f"Share of tokens by expert: {context.name} and {context.second_name}",
        say="All tokens of both traces that pass the filter, paired or not. Equal loads do not mean equal choices: two "
        "routings may load experts alike and agree on no token. The cell under the pointer is outlined in both maps; "
        "a click keeps it, and says what took its place.",
        python=loads_snippet(context), select="cell",
    )  # fmt: skip
    expert_drawer.choose(points, place="both loads")
    if cell := expert_drawer.chosen():
        with messages.guarded("The expert could not be shown"):
            _cell(context, choice, cell.layer, cell.expert)


def _cell(context: PageContext, choice: Choice, layer: int, expert: int) -> None:
    """What replaced the chosen expert, and what it replaced."""
    table = choice.view(context, "agreement-experts", layers=str(layer))
    messages.say(sentences.exchanges_of(table, layer, expert))
