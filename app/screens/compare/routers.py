"""Which experts gave way to which, and both traces' loads on one colour scale."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from ....store.views.experts.load_difference import with_measure
from ...figures import agreement as figures
from ...figures.load import HOVER
from ...figures.multiples import small_maps
from ...sentences import agreement as sentences
from ...shell import link_check, messages, show
from ...shell.page_context import PageContext
from ...shell.show import side_by_side
from .choice import Choice


def draw(context: PageContext, choice: Choice) -> None:
    """Draw the exchange matrix of a layer beside its largest entries, then the two maps."""
    st.subheader("Which expert gave way to which", anchor=False)
    numbers = [router.layer for router in context.routers()]
    layer = link_check.selectbox("Layer", numbers, key="layer", what="the layer", width=120)  # pyright: ignore[reportArgumentType]
    link_check.tell("layer", "margin")
    with messages.guarded("The exchange of experts could not be shown"):
        _exchange(context, choice, layer)
    with messages.guarded("The two maps could not be drawn"):
        _maps(context)


def _exchange(context: PageContext, choice: Choice, layer: int) -> None:
    table = choice.view(context, "agreement-experts", layers=str(layer))
    if not table.num_rows:
        messages.say(f"In layer {layer} no expert gave way to another.")
        return
    experts = context.trace.router(layer, context.stream).num_experts
    left, right = side_by_side((3, 2), key="exchange")
    with left:
        show.chart(
            lambda theme: figures.exchange_map(table, experts, theme=theme), table, name="compare-exchange",
            title=f"Experts of layer {layer} that gave way to others", say=sentences.exchange(table),
            python=choice.python(context, "agreement-experts", layers=str(layer)),
        )  # fmt: skip
    with right:
        show.table(
            table.slice(0, 50).select(["from_expert", "to_expert", "count", "share", "uses"]), name="compare-exchanges",
            columns={"from_expert": f"of {context.name}", "to_expert": f"of {context.second_name}",
                     "share": st.column_config.NumberColumn("of its uses", format="percent")}, height=360,
        )  # fmt: skip


def _maps(context: PageContext) -> None:
    st.subheader("Both loads on one scale", anchor=False)
    names = {"a": context.name, "b": str(context.second_name)}
    sides = []
    for side, second in (("a", False), ("b", True)):
        table = with_measure(context.in_window(context.view("load", second=second)), "share")
        sides.append(table.append_column("trace", pa.array([side] * table.num_rows)))
    both = pa.concat_tables(sides, promote_options="permissive")
    hover = [line for line in HOVER if both[line.column].null_count < both.num_rows]
    show.chart(
        lambda theme: small_maps(both, "value", "trace", names, theme=theme, label="share of tokens", hover=hover),  # pyright: ignore[reportArgumentType]
        both, name="compare-loads", title=f"Share of tokens by expert: {context.name} and {context.second_name}",
        say="All tokens of both traces that pass the filter, paired or not. Equal loads do not mean equal choices: two "
        "routings may load experts alike and agree on no token.",
        python=context.snippet("load"), select="cell",
    )  # fmt: skip
