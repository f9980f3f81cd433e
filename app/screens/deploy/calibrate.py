"""Merge and calibrate: like experts, and prompts that reach all of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ....store.library import given_name
from ....store.views.deploy.calibration import picked_prompts, prompt_lines
from ...figures import deploy as figures
from ...sentences.deploy import calibration_answer, likeness_answer
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...text import words
from .parts import decided, notes, take, window_text


def draw(context: PageContext) -> None:
    """Clusters of a layer, and the calibration set."""
    _merge(context)
    _calibrate(context)


def _merge(context: PageContext) -> None:
    keep = st.slider(
        "Experts after the merge", 0.1, 1.0, 0.5, 0.05, key="merge to", bind="query-params", width=260
    )
    ask = {"keep": keep, "layers": window_text(context)}
    table = decided(lambda: context.view("likeness", **ask), "Nothing is known of outputs yet")
    if table is None:
        return
    layers = sorted(set(table["layer"].to_pylist()))
    layer = st.selectbox("Layer", layers, key="merge layer", width=120)
    rows = table.filter(pc.equal(table["layer"], layer))
    messages.say(likeness_answer(rows))
    matrix = _matrix(rows)
    joined = context.view("merge-tree", layers=ask["layers"])
    steps = joined.filter(pc.equal(joined["layer"], layer))
    clusters = len(set(rows["cluster"].to_pylist()))
    if steps.num_rows:
        show.chart(
            lambda theme: figures.tree(steps, clusters, theme=theme),
            steps, name=f"merge-tree-{layer}", title=f"Which experts of layer {layer} join first",
            say="Coloured joints: the tree cut into as many clusters. The merge improves that cut by single moves. "
            "The height need not begin at 0.",
            python=context.snippet("merge-tree", layers=ask["layers"]),
        )  # fmt: skip
    st.caption("For a checkpoint in which these experts are one, its loss beside pruning to as many:")
    model = given_name(context.trace) or "MODEL"
    st.code(f"moescope merge {model} --trace {context.url} --keep {keep:g} --out merged", language="bash",
            wrap_lines=True)  # fmt: skip
    show.chart(
        lambda theme: figures.squares(
            matrix, "similarity", label="mean cosine", value_format=".2f", side=14, theme=theme
        ),
        rows, name=f"likeness-{layer}", title=f"Similarity of experts' outputs in layer {layer}",
        say="Experts in the order of their clusters.", python=context.snippet("likeness", **ask),
    )  # fmt: skip
    notes(table)


def _matrix(rows: pa.Table) -> pa.Table:
    listed = sorted(rows.to_pylist(), key=lambda row: (row["cluster"], row["expert"]))
    order = [row["expert"] for row in listed]
    return pa.Table.from_pylist(
        [
            {"a": row["expert"], "b": other, "similarity": row["similarity"][other]}
            for row in listed
            for other in order
        ]
    )


def _calibrate(context: PageContext) -> None:
    st.subheader("Which prompts should calibrate a quantiser?", anchor=False)
    first = min(128, max(1, context.trace.num_prompts // 4))
    prompts = int(
        st.number_input("Prompts", 1, 100_000, first, key="calibration", bind="query-params", width=140)
    )
    ask: dict[str, Any] = {"sizes": str(prompts), "layers": window_text(context)}
    table = decided(lambda: context.view("calibration-balance", **ask), "No calibration set")
    if table is None:
        return
    messages.say(calibration_answer(table))
    count = table["prompts"][0].as_py()
    take(
        words.amount(count, "prompt"),
        lambda: _lines(context, count, ask["layers"]),
        "calibration.jsonl",
        key="pick.file",
    )
    show.chart(
        lambda theme: figures.alternatives(
            table, "set", "sigma", label="σ of expert shares (0 is even)", chosen="picked", value_format=".4f",
            theme=theme,
        ),
        table, name="calibration", title="How evenly sets of prompts use experts", say="Line: 95 % of random sets.",
        python=context.snippet("calibration-balance", **ask),
    )  # fmt: skip
    notes(table)


def _lines(context: PageContext, prompts: int, layers: str) -> str:
    tokens = context.token_filter()
    rows, _ = picked_prompts(context.trace, prompts, layers=layers, stream=context.stream, tokens=tokens)
    return prompt_lines(context.trace, rows)
