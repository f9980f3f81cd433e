"""The profile over layers, and how flips go through them."""

from __future__ import annotations

import streamlit as st

from ....store.errors import UnknownColumn
from ...figures import agreement as figures
from ...sentences import agreement as sentences
from ...shell import link_check, messages, show
from ...shell.page_context import PageContext
from ...shell.show import side_by_side
from .choice import Choice

SHORT = {
    "flip_rate": "set", "first_flip": "first expert", "overlap": "overlap", "gate_distance": "gate weights",
    "load_correlation": "loads",
}  # fmt: skip


def draw(context: PageContext, choice: Choice) -> None:
    """Draw both charts, and the margins of one layer."""
    split = {"by": choice.by} if choice.by else {}
    with messages.loading(height=300):
        table = choice.view(context, "agreement", **split)
        plain = choice.view(context, "agreement") if split else table
    known = [name for name in SHORT if table[name].null_count < table.num_rows]
    measure = st.segmented_control(
        "Agreement of", known, default=known[0], key="measure", bind="query-params", required=True,
        format_func=SHORT.__getitem__,
    ) or known[0]  # fmt: skip
    show.chart(
        lambda theme: figures.profile(table, measure, by=choice.by, theme=theme), table, name=f"compare-{measure}",
        key="profile", title=f"{figures.MEASURES[measure].capitalize()} by layer", say=sentences.by_layer(plain),
        python=choice.python(context, "agreement", **split),
    )  # fmt: skip
    left, right = side_by_side(2, key="flips")
    with left, messages.guarded("The flips could not be followed"):
        st.subheader("Do flips lead to flips?", anchor=False)
        tokens = choice.view(context, "agreement-tokens")
        if tokens.num_rows:
            show.chart(
                lambda theme: figures.through_layers(tokens, theme=theme), tokens, name="compare-through-layers",
                title="Where the first flip is, and whether it leads to others", say=sentences.through_layers(tokens),
                python=choice.python(context, "agreement-tokens"),
            )  # fmt: skip
    with right, messages.guarded("The margins could not be shown"):
        _margins(context, choice)


def _margins(context: PageContext, choice: Choice) -> None:
    st.subheader("Were the choices close?", anchor=False)
    numbers = [router.layer for router in context.routers()]
    layer = link_check.selectbox("Layer of the margins", numbers, key="margin", what="the layer", width=150,  # pyright: ignore[reportArgumentType]
                                 index=choice.most_flipped(context, numbers))  # fmt: skip
    try:
        table = choice.view(context, "agreement-margin", layers=str(layer))
    except UnknownColumn as error:
        messages.note("plain", f"{error}.")
        return
    if not table.num_rows:
        messages.note("plain", "No expert is left out here, so no choice was close.")
        return
    show.chart(
        lambda theme: figures.margin_curve(table, theme=theme), table, name="compare-margin",
        title=f"Tokens with another set of experts by the margin of the choice, layer {layer}",
        say=sentences.margins(table), python=choice.python(context, "agreement-margin", layers=str(layer)),
    )  # fmt: skip
