"""The ways of tokens: flows between layers, whole paths, repeats from token to token."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store.views.structure.paths import MOST_LAYERS
from ...figures.structure.over_layers import repeat_lines
from ...figures.structure.pair_map import MOST, pair_map
from ...figures.structure.parallel import parallel, parallel_still
from ...figures.structure.sankey import sankey, sankey_still
from ...sentences import structure as sentences
from ...shell import messages, show
from ...shell.page_context import PageContext
from .parts import nothing, told, window_text

FIRST_LAYERS = 4
FLOWS, GROUPS = "flows", "paths"
PICTURES = {FLOWS: "flows between two layers", GROUPS: "whole paths"}
WITHIN, ONWARDS = "of one layer", "to the next layer"


def draw(context: PageContext) -> None:
    """Sankey or parallel categories, table of paths, repeats."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        layers = _choose_layers(context)
        kind = _choose_picture() if layers else FLOWS
    if layers:
        (_flows if kind == FLOWS else _groups)(context, layers)
        _paths(context, layers)
    _pairs(context)
    _repeats(context)


def _choose_picture() -> str:
    return st.segmented_control(
        "Picture", list(PICTURES), default=FLOWS, key="picture", bind="query-params", required=True,
        format_func=PICTURES.__getitem__,
    ) or FLOWS  # fmt: skip


def _choose_layers(context: PageContext) -> str | None:
    numbers = [router.layer for router in context.routers()]
    if len(numbers) < 2:
        messages.say("Paths need two layers or more in the layer window of the bar above.")
        return None
    start = st.selectbox("From layer", numbers[:-1], key="path start", width=120)
    at = numbers.index(start)
    left = min(len(numbers) - at, MOST_LAYERS)
    many = int(
        st.number_input(
            "over … layers", 2, max(left, 2), min(FIRST_LAYERS, left), key=f"path length {left}", width=130
        )
    )
    return ",".join(map(str, numbers[at : at + many]))


def _flows(context: PageContext, layers: str) -> None:
    limit = st.slider("flows drawn between two layers", 4, 80, 20, key="flow limit", width=320)
    ask: dict[str, Any] = {"layers": layers, "limit": limit}
    with messages.loading(height=520):
        table = context.view("flows", **ask)
    if nothing(table):
        return
    show.plotly(
        lambda theme: sankey(table, theme=theme), lambda theme: sankey_still(table, theme=theme), table, name="flows",
        title=f"Strongest flows of tokens between layers {layers.replace(',', ', ')}",
        say=told(
            f"{sentences.flows(table)} A token goes by its {context.first_expert}; boxes are named "
            "layer.expert.", table,
        ),
        python=context.snippet("flows", **ask),
    )  # fmt: skip


def _groups(context: PageContext, layers: str) -> None:
    most = st.slider("experts told apart in each layer", 2, 12, 6, key="group limit", width=320)
    ask: dict[str, Any] = {"layers": layers, "most": most}
    with messages.loading(height=520):
        table = context.view("path-groups", **ask)
    if nothing(table):
        return
    show.plotly(
        lambda theme: parallel(table, theme=theme), lambda theme: parallel_still(table, theme=theme), table,
        name="path-groups", title=f"Paths of tokens through layers {layers.replace(',', ', ')}",
        say=told(sentences.path_groups(table, context.first_expert), table),
        python=context.snippet("path-groups", **ask),
    )  # fmt: skip


def _paths(context: PageContext, layers: str) -> None:
    ask: dict[str, Any] = {"layers": layers, "limit": 100}
    with messages.loading(height=240):
        table = context.view("paths", **ask)
    if not table.num_rows:
        return
    show.table(
        table, name="paths", say=told(sentences.paths(table), table), height=260,
        order=["path", "count", "share", "expected", "ratio", "prompts"],
        columns={
            "count": st.column_config.NumberColumn("tokens", format="localized"),
            "share": st.column_config.NumberColumn(format="percent"),
            "expected": st.column_config.NumberColumn("if independent", format="%.1f"),
            "ratio": st.column_config.NumberColumn("times that", format="%.1f"),
        },
        python=context.snippet("paths", **ask),
    )  # fmt: skip


def _pairs(context: PageContext) -> None:
    st.subheader("Which experts work together?", anchor=False)
    layers = [router.layer for router in context.routers()]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        layer = st.selectbox("Layer", layers, key="pair layer", width=110)
        kinds = [WITHIN] if layer == layers[-1] else [WITHIN, ONWARDS]
        kind = st.segmented_control("Pairs", kinds, default=WITHIN, key="pairs", bind="query-params",
                                    required=True) or WITHIN  # fmt: skip
    following = layers[layers.index(layer) + 1] if kind == ONWARDS else layer
    ask: dict[str, Any] = {"layer": layer} | ({"to_layer": following} if kind == ONWARDS else {})
    name = "transitions" if kind == ONWARDS else "co-activation"
    a, b = ("from_expert", "to_expert") if kind == ONWARDS else ("expert_a", "expert_b")
    with messages.loading(height=420):
        table = context.view(name, **ask)
    if nothing(table):
        return
    counted = table.rename_columns(
        ["tokens" if column == "pairs" else column for column in table.column_names]
    )
    if not any(counted["tokens"].to_pylist()):
        messages.say("No token of the selection uses two experts of these layers.")
        return
    show.chart(
        lambda theme: pair_map(counted, a, b, label_a=f"expert of layer {layer}",
                               label_b=f"expert of layer {following}", layers=(layer, following), theme=theme),
        table, name=f"{name}-layer-{layer}", title=f"Pairs of experts, layer {layer}"
        + (f" to {following}" if kind == ONWARDS else ""),
        say=told(sentences.pairs(counted, a, b, layer, following, MOST), table), python=context.snippet(name, **ask),
    )  # fmt: skip


def _repeats(context: PageContext) -> None:
    st.subheader("Does a token keep the expert of the token before it?", anchor=False)
    ask: dict[str, Any] = {"layers": window_text(context)}
    with messages.loading(height=280):
        table = context.view("repeats", **ask)
    if nothing(table):
        return
    show.chart(
        lambda theme: repeat_lines(table, theme=theme), table, name="repeats",
        title="Consecutive tokens with the same first expert, by layer",
        say=told(sentences.repeats(table), table), python=context.snippet("repeats", **ask),
    )  # fmt: skip
