"""Local consistency: SRP by layer, and what caches of each size would serve."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ...figures.half_life import half_life_by_layer
from ...figures.structure import over_layers
from ...figures.structure.cache_curve import cache_curves, pooled
from ...sentences import half_life as half_life_words
from ...sentences import structure as sentences
from ...shell import messages, show
from ...shell.page_context import PageContext
from .parts import nothing, phase_box, told, window_text

ALL = "all layers"


def draw(context: PageContext) -> None:
    """SRP, caches, half-life."""
    ask: dict[str, Any] = {"layers": window_text(context)}
    with messages.loading(height=300):
        table = context.view("local-consistency", **ask)
    if nothing(table):
        return
    phase, rows = phase_box(table)
    measured = rows.filter(pc.is_valid(rows["srp"]))
    if measured.num_rows:
        show.chart(
            lambda theme: over_layers.consistency_lines(measured, theme=theme), rows, name=f"consistency-{phase}",
            title="Segment routing best performance (SRP) by layer",
            say=told(
                f"{sentences.consistency(rows, phase)} Dashed: tokens that choose independently with the same "
                "load.", table,
            ),
            python=context.snippet("local-consistency", **ask),
        )  # fmt: skip
    else:
        messages.say(sentences.consistency(rows, phase))
    _caches(context, phase)
    _half_life(context)


def _caches(context: PageContext, phase: str) -> None:
    st.subheader("What would a cache of experts serve?", anchor=False)
    layers = [router.layer for router in context.routers()]
    chosen = st.selectbox("Cache of", [ALL, *map(str, layers)], key="cache layer", width=140,
                          format_func=lambda name: name if name == ALL else f"layer {name}")  # fmt: skip
    ask: dict[str, Any] = {"layers": window_text(context) if chosen == ALL else chosen}
    with messages.loading(height=320):
        table = context.view("cache-hits", **ask)
    rows = table.filter(pc.equal(table["phase"], phase))
    if nothing(rows):
        return
    curves = pooled(rows)
    top_k = _one(rows["top_k"])
    show.chart(
        lambda theme: cache_curves(curves, top_k=top_k, theme=theme), curves, name=f"caches-{phase}",
        title="Accesses that a cache of experts would serve, by its size",
        say=told(sentences.caches(curves, top_k), table), python=context.snippet("cache-hits", **ask),
    )  # fmt: skip


def _one(column: pa.ChunkedArray) -> int | None:
    values = set(column.to_pylist())
    return values.pop() if len(values) == 1 else None


def _half_life(context: PageContext) -> None:
    st.subheader("For how many tokens does an expert stay?", anchor=False)
    ask: dict[str, Any] = {"layers": window_text(context)}
    with messages.loading(height=280):
        table = context.view("expert-half-life", **ask)
    if nothing(table):
        return
    show.chart(
        lambda theme: half_life_by_layer(table, theme=theme), table, name="half-life",
        title="Half-life of experts by layer", say=told(half_life_words.half_life(table), table),
        python=context.snippet("expert-half-life", **ask),
    )  # fmt: skip
