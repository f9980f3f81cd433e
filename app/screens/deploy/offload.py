"""Cache and offload: what a cache of experts hits, with and without prediction."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ...figures import deploy as figures
from ...sentences.deploy import offload_answer, regrouping_answer, ring_answer, with_names
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...text import words
from .parts import decided, notes, window_text

_NUMBER = st.column_config.NumberColumn
GROUPS = {
    "experts_per_batch": _NUMBER("experts a batch", format="%.1f"),
    "share": _NUMBER("of all experts", format="percent"),
    "low": _NUMBER("95 % of random orders, from", format="%.1f"),
    "high": _NUMBER("to", format="%.1f"),
}


def draw(context: PageContext) -> None:
    """The answer, hit rates by slots, predictors by layer, regrouping."""
    experts = max(router.num_experts for router in context.routers())
    top_k = max((router.top_k or 1) for router in context.routers())
    sizes = sorted(
        {n for n in (top_k, 2 * top_k, experts // 4, experts // 2, 3 * experts // 4, experts) if n >= 1}
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        size = st.number_input(
            "Megabytes of an expert", 0.0, 1e6, 0.0, key="expert mb", bind="query-params", width=210,
            help="0: from the expert sheet, where there is one.",
        )  # fmt: skip
        batch = int(
            st.number_input("Sequences in a batch", 1, 4096, 8, key="batch", bind="query-params", width=190)
        )
        times = [
            st.number_input(label, 0.0, 1e6, 0.0, key=key, bind="query-params", width=210,
                            help="A time that you measured; 0: not known. With both, the ring schedule is told.")
            for label, key in (("Milliseconds to compute a layer", "compute ms"), ("To copy its experts in", "copy ms"))
        ]  # fmt: skip
    ask: dict[str, Any] = {"slots": ",".join(map(str, sizes)), "layers": window_text(context)}
    if size:
        ask["expert_bytes"] = size * 1e6
    table = decided(lambda: context.view("offload", **ask), "No hit rates", height=300)
    if table is None:
        return
    half = table.filter(table["slots"].to_numpy() <= max(sizes[0], experts // 2))
    messages.say(offload_answer(half))
    if all(times):
        messages.say(ring_answer(len(context.routers()), *times))
    show.chart(
        lambda theme: figures.curves(
            with_names(table, "policy"), "slots", "hit_rate", "policy",
            x_title="experts that fast memory holds, for each layer", y_title="accesses that hit", theme=theme,
        ),
        table, name="offload", title="Accesses that hit, by slots",
        say="Bands: 95 %. Belady knows the future: no cache can hit more.", python=context.snippet("offload", **ask),
    )  # fmt: skip
    notes(table)
    _predictors(context)
    groups = decided(lambda: context.view("regrouping", batch=batch, layers=ask["layers"]), "No batches")
    if groups is not None:
        st.subheader("Which sequences should share a batch?", anchor=False)
        show.table(groups, name="regrouping", columns=GROUPS, height="content", say=regrouping_answer(groups, batch),
                   python=context.snippet("regrouping", batch=batch, layers=ask["layers"]))  # fmt: skip


def _predictors(context: PageContext) -> None:
    ask: dict[str, Any] = {"layers": window_text(context)}
    table = decided(lambda: context.view("expert-prediction", **ask), "No predictions")
    if table is None:
        return
    st.subheader("Can the next experts be predicted?", anchor=False)
    chance = table["chance"].to_numpy().mean()
    show.chart(
        lambda theme: figures.curves(
            with_names(table, "predictor"), "layer", "recall", "predictor", x_title="layer",
            y_title="chosen experts that were predicted",
            theme=theme,
        ),
        table, name="predictors", title="Predictors of experts: recall by layer",
        say=f"Each predicts as many experts as a token has; by chance {words.percent(chance)} would be right.",
        python=context.snippet("expert-prediction", **ask),
    )  # fmt: skip
