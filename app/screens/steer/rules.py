"""The rules of the steering as a list, with undo and redo; and the form for rules on whole layers."""

from __future__ import annotations

import html
from typing import Any

import streamlit as st

from ....store import StoreError
from ....tracer.steering.median_ratios import median_ratios
from ....tracer.steering.rules import KINDS, Rule
from ...shell import messages
from ...shell.frame import Frame
from ...steering.edit import WHOLE_LAYER, groups, without
from ...steering.history import Draft
from ...steering.rule_words import rule_group
from ...text import words
from . import state

MOST_SHOWN = 12
AMOUNTS: dict[str, tuple[str, float, float, float]] = {
    "top_k": ("m: experts a token keeps", 1, 1, 1), "top_p": ("q: share of the weight", 0.8, 0.05, 0.05),
    "prune_ratio": ("μ: least share of the first's weight", 0.5, 0.0, 0.05),
    "null_experts": ("m: null experts", 4, 0, 1), "temperature": ("τ", 1.5, 0.05, 0.1),
}  # fmt: skip
"""Label, first value, smallest value, step."""


def draw(frame: Frame) -> None:
    """The list."""
    history = state.history()
    rules = history.now.rules
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="steer-rules-head"):
        many = words.amount(len(groups(rules)), "rule") if rules else "No rules: the model runs as it is"
        title = f"<b>{html.escape(history.now.name)}</b> · {many}" if history.now.name else many
        st.html(f'<p class="ms-rules-title">{title}</p>')
        st.button("Undo", icon=":material/undo:", type="tertiary", key="steer-undo",
                  on_click=state.undo, disabled=not history.past)  # fmt: skip
        st.button("Redo", icon=":material/redo:", type="tertiary", key="steer-redo",
                  on_click=state.redo, disabled=not history.future)  # fmt: skip
        st.button("Clear", icon=":material/close:", type="tertiary", key="steer-clear",
                  on_click=state.put, args=(Draft(),), disabled=not rules)  # fmt: skip
    found = groups(rules)
    for number, group in enumerate(found[:MOST_SHOWN]):
        _row(number, group)
    if len(found) > MOST_SHOWN:
        with st.expander(f"{len(found) - MOST_SHOWN} more"):
            for number, group in enumerate(found[MOST_SHOWN:], start=MOST_SHOWN):
                _row(number, group)


def summary() -> None:
    """The rules in words, for where they are used and not changed."""
    rules = state.draft().rules
    lines = [rule_group([rules[at] for at in group]) for group in groups(rules)]
    for line in lines[:MOST_SHOWN]:
        st.html(f'<p class="ms-rule">{html.escape(line)}</p>')
    if len(lines) > MOST_SHOWN:
        messages.say(f"and {len(lines) - MOST_SHOWN} more")


def _row(number: int, group: list[int]) -> None:
    rules = state.draft().rules
    text = html.escape(rule_group([rules[at] for at in group]))
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"steer-rule-{number}"):
        st.html(f'<p class="ms-rule">{text}</p>')
        st.button(
            "Remove", icon=":material/close:", type="tertiary", key=f"steer-remove-{number}",
            on_click=state.edit, args=(lambda rules: without(rules, group),),
        )  # fmt: skip


def whole_layers(frame: Frame) -> None:
    """The form that adds a rule on all experts of some layers."""
    name = st.selectbox(
        "Rule", WHOLE_LAYER, key="steer-whole", format_func=lambda name: name.replace("_", " ")
    )
    name = name or WHOLE_LAYER[0]
    st.caption(KINDS[name].summary[:1].upper() + KINDS[name].summary[1:] + ".")
    layers = sorted({router.layer for router in frame.routers()})
    chosen = st.multiselect("Layers", layers, key="steer-whole-layers", placeholder="all layers")
    label, first, least, step = AMOUNTS[name]
    medians = name == "prune_ratio" and st.toggle(
        "μ: the medians of this trace", value=True, key="steer-medians"
    )
    amount: Any = None
    if not medians:
        amount = st.number_input(label, least, None, first, step, key=f"steer-whole-{name}")
    options: dict[str, Any] = {key: value for key, value in KINDS[name].defaults.items() if key != "amount"}
    if "renormalise" in options:
        options["renormalise"] = st.toggle("renormalise", value=True, key="steer-whole-renormalise")
    if name == "null_experts":
        options["logit"] = st.number_input("c: their logit", value=0.0, step=0.5, key="steer-whole-logit")
        k = max((router.top_k or 1 for router in frame.routers()), default=1)
        options["top_k"] = int(
            st.number_input("k: places to compete for", 1, None, k + 2, key="steer-whole-k")
        )
    if not st.button("Add the rule", type="primary", key="steer-whole-add"):
        return
    if medians:
        try:
            amount = median_ratios(frame.trace, stream=frame.stream)
        except StoreError as error:
            messages.problem(error, doing="The medians could not be read")
            return
    if name in ("top_k", "null_experts"):
        amount = int(amount)
    rule = Rule(name, tuple(chosen) or None, None, amount, frame.stream, options=options)
    state.edit(lambda rules: (*rules, rule))
    state.redraw()
