"""Resonance: which experts respond to one group of prompts more than to another, and how surely."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ...store.arrow import pc
from ...store.notes import notes_of
from .. import drawer, profiles, sentences_resonance, show, states, words
from ..figures import resonance as figures
from ..figures.routing_map import Hover, routing_map
from ..frame import Frame

MEASURES = {
    "rate": "share of tokens",
    "weight_rate": "gate weight a token",
    "count": "tokens",
    "weight": "gate weight",
}
QS = [0.001, 0.01, 0.05, 0.1, 0.2]
ALL_OTHERS = "all others"
HOVER = [
    Hover(column="score", title="score", format="+.4f"),
    Hover(column="effect", title="effect (sd)", format="+.2f"),
    Hover(column="q", title="q", format=".2g"),
    Hover(column="stability", title="in top N of bootstraps", format=".0%"),
    Hover(column="target_mean", title="target mean", format=".4f"),
    Hover(column="rest_mean", title="rest mean", format=".4f"),
]


def page(frame: Frame) -> None:
    """Draw the page."""
    st.title("Resonance", anchor=False)
    columns = [name for name, values in frame.trace.tags().items() if len(values) > 1]
    if not columns:
        states.empty(
            "Nothing to contrast",
            "This page contrasts two groups of prompts, and all prompts of this trace are alike.",
            todo="Trace a prompt set with a column group (or language, or any tag) of two or more values.",
        )
        return
    contrast = _contrast(frame, columns)
    if contrast is None:
        return
    _groups(frame, contrast)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        measure = st.selectbox(
            "Measure",
            list(MEASURES),
            key="of map",
            bind="query-params",
            format_func=MEASURES.__getitem__,
            width=200,
        )
        last = st.number_input(
            "last tokens only (0: all)", 0, 10_000, 0, key="last", bind="query-params", width=180
        )
        top = st.number_input("top N", 1, 500, 20, key="top", bind="query-params", width=110)
        q = st.select_slider("q at most", QS, value=0.05, key="q", bind="query-params", width=220)
    params = {**contrast, "measure": measure, **({"last": int(last)} if last else {})}
    with states.loading(height=420):
        table = frame.view("resonance", layers=_layers(frame), **params)
    _scan(frame, table, contrast, params, measure, q)
    left, right = st.columns(2, gap="large")
    with left:
        show.chart(
            lambda theme: figures.volcano(table, q=q, theme=theme), table, name="resonance-volcano",
            title="Score and evidence of every expert",
            say="Each point is an expert; above the dashed line its q is small.",
        )  # fmt: skip
    with right:
        show.chart(
            lambda theme: figures.by_layer(table, q=q, theme=theme), table, name="resonance-layers",
            title="Experts that stand out, by layer", say=_by_layer(table, q),
        )  # fmt: skip
    _top(frame, table, int(top), q, params)
    if cell := drawer.chosen():
        drawer.draw(frame, cell)


def _contrast(frame: Frame, columns: list[str]) -> dict[str, Any] | None:
    """What is contrasted with what, as parameters of the view."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        first = columns.index("group") if "group" in columns else 0
        by = st.selectbox("Groups by", columns, index=first, key="contrast", bind="query-params", width=170)
        values = frame.trace.tags()[by]
        if st.session_state.get("target") not in values:
            st.session_state.pop("target", None)
        target = st.selectbox("A, the target", values, key="target", bind="query-params", width=220)
        others = [ALL_OTHERS, *(value for value in values if value != target)]
        if st.session_state.get("rest") not in others:
            st.session_state.pop("rest", None)
        rest = st.selectbox("B, the rest", others, key="rest", bind="query-params", width=220)
        st.button(
            "swap", key="swap", disabled=rest == ALL_OTHERS, on_click=_swap, icon=":material/swap_horiz:"
        )
    if target is None:
        return None
    return {"by": by, "target": target, **({} if rest == ALL_OTHERS else {"rest": rest})}


def _swap() -> None:
    state = st.session_state
    state["target"], state["rest"] = state["rest"], state["target"]


def _groups(frame: Frame, contrast: dict[str, Any]) -> None:
    """Both groups as cards: how many prompts, and the first of them."""
    by, target, rest = contrast["by"], contrast["target"], contrast.get("rest")
    values = frame.trace.tags()[by]
    sides = {"A": [target], "B": [rest] if rest else [value for value in values if value != target]}
    for place, (name, wanted) in zip(st.columns(2, gap="large"), sides.items(), strict=True):
        prompts = frame.trace.prompts({**frame.where, by: wanted})
        example = prompts["text"][0].as_py() if prompts.num_rows else "no prompt passes the filter"
        short = example if len(example) <= 160 else example[:160] + "…"
        with place:
            who = words.listing([words.value_name(by, value) for value in wanted], most=5)
            states.card(f"{name}: {who} · {words.amount(prompts.num_rows, 'prompt')}", short, kind="group")


def _layers(frame: Frame) -> str:
    numbers = [router.layer for router in frame.routers()]
    return f"{min(numbers)}:{max(numbers)}"


def _scan(
    frame: Frame, table: pa.Table, contrast: dict[str, Any], params: dict[str, Any], measure: str, q: float
) -> None:
    only = st.toggle("only experts with small q", key="only", bind="query-params")
    shown = table
    if only:
        kept = pc.if_else(pc.less_equal(table["q"], q), table["score"], 0.0)
        shown = table.set_column(table.schema.get_field_index("score"), "score", kept)
    rest = contrast.get("rest") or "all others"
    points = show.chart(
        lambda theme: routing_map(
            shown, "score", theme=theme, label=f"score: {MEASURES[measure]}, A − B",
            value_format="+.0%" if measure == "rate" else "+.2f", diverging=True, hover=HOVER,
        ),
        table, name=f"resonance-{contrast['target']}", key="scan", select="cell",
        title=f"Resonance: {contrast['target']} against {rest}",
        say=sentences_resonance.scan(table, q, contrast["target"], rest, measure == "rate"),
        python=frame.snippet("resonance", **params),
    )  # fmt: skip
    drawer.choose(points)
    states.note("plain", " ".join(notes_of(table)))


def _by_layer(table: pa.Table, q: float) -> str:
    found = table.filter(pc.less_equal(table["q"], q))
    if not found.num_rows:
        return f"No expert of any layer has q ≤ {q}."
    layers = found["layer"].to_pylist()
    most = max(set(layers), key=layers.count)
    return f"Layer {most} holds most of them: {layers.count(most)} of {len(layers)}."


def _top(frame: Frame, table: pa.Table, top: int, q: float, params: dict[str, Any]) -> None:
    """The ranking with its certainty, and the way to steering."""
    st.subheader(f"Top {top}", anchor=False)
    rows = table.slice(0, top)
    percent = st.column_config.NumberColumn
    show.table(
        rows, name="resonance-top", python=frame.snippet("resonance", **params, top=top),
        say="Ranked by |score| over all shown layers. q: false discovery rate over all of them; stability: share of "
        "bootstraps of the prompts in which the expert is in the top 20.",
        columns={
            "score": percent(format="%+.4f"), "effect": percent(format="%+.2f"), "p": percent(format="%.2g"),
            "q": percent(format="%.2g"), "p_family": percent(format="%.2g"), "stability": percent(format="%.2f"),
            "target_mean": percent(format="%.4f"), "rest_mean": percent(format="%.4f"),
        },
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        rule = st.segmented_control(
            "To steering, as", ["off", "on", "zero", "scale"], default="off", key="rule"
        )
        toward = st.segmented_control("of", ["A", "B"], default="A", key="toward")
        sure = st.toggle("only those with small q", value=True, key="sure")
        beta = st.number_input("β", 0.0, 10.0, 2.0, 0.1, key="beta", width=110, disabled=rule != "scale")
    wanted = [
        (row["layer"], row["expert"]) for row in table.to_pylist()
        if (row["score"] > 0) == (toward != "B") and (row["q"] <= q or not sure)
    ][:top]  # fmt: skip
    amounts = {"amount": beta} if rule == "scale" else {}
    whose = params["target"] if toward != "B" else params.get("rest") or "the rest"
    made = profiles.profile(
        f"{rule} top {len(wanted)} experts of {whose}",
        frame.trace.manifest.model.get("name"),
        profiles.rules_by_layer(rule or "off", wanted, stream=frame.stream, **amounts),
    )
    st.download_button(
        f"Steering profile ({words.amount(len(wanted), 'expert')})", profiles.as_file(made),
        file_name="resonance.json", mime="application/json", on_click="ignore", disabled=not wanted,
    )  # fmt: skip
    if not wanted:
        states.say("No expert in that direction has a small enough q; nothing is sent to steering.")
