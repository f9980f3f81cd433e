"""Prune: which experts can go, by scores that stand side by side."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import streamlit as st

from ....store.library import given_name
from ....store.schema import LayerExpert
from ....store.views.deploy.scores import SCORES, kept_count, kept_experts
from ...figures import deploy as figures
from ...sentences.deploy import named, pruning_answer
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...steering.offer import offer
from . import preview
from .parts import decided, notes, window_text

_NUMBER = st.column_config.NumberColumn
AGREEMENT = {
    "a": "score",
    "b": "and score",
    "spearman": _NUMBER("rank correlation", format="%.3f"),
    "overlap": _NUMBER("kept by both", format="percent"),
    "chance": _NUMBER("by chance", format="percent"),
}


def draw(context: PageContext) -> None:
    """Scores, the kept experts as a profile, agreement of scores, overlap of domains, the command."""
    layers = window_text(context)
    table = decided(lambda: context.view("expert-scores", layers=layers), "No scores")
    if table is None:
        return
    there = [name for name in SCORES if table[name].null_count < table.num_rows]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        best = "reap" if "reap" in there else "gate" if "gate" in there else there[0]
        score = st.selectbox(
            "Score", there, index=there.index(best), key="score", width=220, format_func=named
        )
        keep = st.slider(
            "Experts that stay", 0.1, 1.0, 0.75, 0.05, key="keep", bind="query-params", width=260
        )
    kept = _kept(table, score, keep)
    agreement = decided(
        lambda: context.view("score-agreement", keep=keep, layers=layers), "No comparison of scores"
    )
    messages.say(pruning_answer(table, score, kept, agreement))
    offer(context, f"keep {keep:.0%} by {score}", "keep_only", kept, key="prune")
    preview.draw(context, keep, score, layers)
    st.caption("For a checkpoint without the other experts, which plain transformers load:")
    model = given_name(context.trace) or "MODEL"
    st.code(
        f"moescope prune {model} --trace {context.url} --keep {keep:g} --score {score} --out pruned",
        language="bash", wrap_lines=True,
    )  # fmt: skip
    if agreement is not None:
        st.subheader("Do the scores agree?", anchor=False)
        show.table(
            agreement, name="score-agreement", columns=AGREEMENT, height="content",
            python=context.snippet("score-agreement", keep=keep, layers=layers),
            say="Two names: rank correlation and overlap of what both keep, beside chance. One name twice: the score "
            "on two halves of the texts.",
        )  # fmt: skip
    notes(table)
    _domains(context, keep, layers, "gate" if "gate" in there else "frequency")


def _kept(table: pa.Table, score: str, keep: float) -> list[LayerExpert]:
    by_layer: dict[int, list[float]] = defaultdict(list)
    for layer, value in zip(table["layer"].to_pylist(), table[score].to_pylist(), strict=True):
        by_layer[layer].append(value)
    return [
        LayerExpert(layer, expert)
        for layer, values in by_layer.items()
        for expert in kept_experts(np.array(values), kept_count(keep, len(values))).tolist()
    ]


def _domains(context: PageContext, keep: float, layers: str, score: str) -> None:
    tags = context.tags()
    if not tags:
        return
    st.subheader("Would other prompts keep other experts?", anchor=False)
    by = st.selectbox("Domains", tags, key="domains", width=190)
    ask = {"by": by, "keep": keep, "score": score, "layers": layers}
    table = decided(lambda: context.view("kept-overlap", **ask), "No overlap")
    if table is None:
        return
    others = table.filter(np.array(table["a"].to_pylist()) != np.array(table["b"].to_pylist()))
    least = min(others.to_pylist(), key=lambda row: row["overlap"])
    show.chart(
        lambda theme: figures.squares(table, "overlap", label="kept by both", theme=theme),
        table, name="kept-overlap", title=f"Experts that two {by} values both keep",
        say=f"{least['a']} and {least['b']} share least: {least['overlap']:.0%} of what each keeps; by chance "
        f"{least['chance']:.0%}.",
        python=context.snippet("kept-overlap", **ask),
    )  # fmt: skip
