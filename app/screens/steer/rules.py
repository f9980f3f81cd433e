"""The rules of the steering as a list, with undo and redo; and the form for rules on whole layers."""

from __future__ import annotations

import html

import streamlit as st

from ....store import StoreError
from ....tracer.steering.median_ratios import median_ratios
from ....tracer.steering.rules import KINDS, Rule
from ...shell import messages
from ...shell.page_context import PageContext
from ...steering.edit import groups, made_at, without
from ...steering.history import Draft
from ...steering.rule_words import rule_group
from ...text import words
from . import forms, state

MOST_SHOWN = 12


def draw(context: PageContext) -> None:
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


def whole_layers(context: PageContext) -> None:
    """The form that adds a rule on all experts of some layers."""
    name = st.selectbox(
        "Rule", made_at("layers"), key="steer-whole", format_func=lambda name: name.replace("_", " ")
    )
    name = name or made_at("layers")[0]
    st.caption(KINDS[name].summary[:1].upper() + KINDS[name].summary[1:] + ".")
    layers = sorted({router.layer for router in context.routers()})
    chosen = st.multiselect("Layers", layers, key="steer-whole-layers", placeholder="all layers")
    kind = KINDS[name]
    medians = kind.number is not None and kind.number.from_trace and st.toggle(
        "μ: the medians of this trace", value=True, key="steer-medians"
    )  # fmt: skip
    most = max((router.top_k or 1 for router in context.routers()), default=1)
    forms.ask(kind, f"steer-whole-{name}", amount=not medians, k=most)
    if not st.button("Add the rule", type="primary", key="steer-whole-add"):
        return
    amount, options = forms.answered(kind, f"steer-whole-{name}")
    if medians:
        try:
            amount = median_ratios(context.trace, stream=context.stream)
        except StoreError as error:
            messages.problem(error, doing="The medians could not be read")
            return
    rule = Rule(name, tuple(chosen) or None, None, amount, context.stream, options=options)
    state.edit(lambda rules: (*rules, rule))
    state.redraw()
