"""Steerings that are asked for often: of a contrast, of a language, at random, and for whole layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from ....store import StoreError
from ....tracer.errors import SteeringError
from ....tracer.steering.read import read_rules
from ....tracer.steering.rules import KINDS
from ...shell import messages, slice_menu
from ...shell.page_context import PageContext
from ...steering import presets
from ...steering.edit import Rules, made_at
from ...text import words
from . import contrast as steer_contrast
from . import state

Made = tuple[str, Rules]
"""Name and rules of a preset."""
RULES = [name for name in made_at("board") if KINDS[name].masks != "others"]


def draw(context: PageContext) -> None:
    """The choice, its settings, and the button."""
    kind = st.selectbox("Preset", list(_KINDS), key="steer-preset")
    make = _KINDS[kind or next(iter(_KINDS))](context)
    add = st.toggle("add to the rules that are there", key="steer-preset-add")
    if make is None or not st.button("Apply", type="primary", key="steer-preset-apply"):
        return
    try:
        name, rules = make()
    except (StoreError, SteeringError) as error:
        messages.card("This preset can't be made here", str(error), kind="error")
        return
    if not rules:
        messages.say("No expert answers to this; nothing was changed.")
        return
    more = add and bool(state.draft().rules)
    state.edit(lambda old: (*old, *rules) if add else rules, name=None if more else name)
    state.redraw()


def _rule_of(place: str) -> tuple[str, float | None]:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        rule = st.selectbox("Rule", RULES, key=f"steer-preset-rule-{place}", width=120) or "off"
        number, amount = KINDS[rule].number, None
        if number is not None and number.default is None:
            amount = st.number_input(
                number.label, number.least, None, number.first, number.step,
                key=f"steer-preset-{rule}-{place}", width=190,
            )  # fmt: skip
    return rule, amount


def _top_of_contrast(context: PageContext) -> Callable[[], Made] | None:
    contrast = steer_contrast.choose(context, "preset")
    if contrast is None:
        messages.say("All prompts of this trace have the same values, so there is nothing to contrast.")
        return None
    number = int(st.number_input("N", 1, 1000, 10, key="steer-preset-n", width=120))
    sure = st.toggle("only those with q ≤ 0.05", value=True, key="steer-preset-sure")
    rule, amount = _rule_of("contrast")

    def make() -> Made:
        cells = presets.top_of(steer_contrast.scan(context, contrast), number, q=0.05 if sure else None)
        name = f"{rule}: top {len(cells)} of {steer_contrast.describe(contrast)}"
        return name, presets.on_cells(rule, cells, amount)

    return make


def _specialised(context: PageContext) -> Callable[[], Made] | None:
    tags = context.trace.tags()
    languages, tasks = tags.get("language", []), tags.get("group", [])
    if len(languages) < 2:
        messages.say(
            "Specialised experts are those that one language uses more than another: this trace has one language."
        )
        return None
    pivot = st.selectbox("against", languages, index=languages.index("en") if "en" in languages else 0,
                         key="steer-preset-pivot", format_func=words.language_name)  # fmt: skip
    kinds = [f"language {value}" for value in languages if value != pivot]
    kinds += [f"task {value}" for value in tasks if len(tasks) > 1]
    whose = (
        st.selectbox("Experts of", kinds, key=f"steer-preset-whose-{pivot}", format_func=_whose) or kinds[0]
    )
    tau = st.slider("τ: least difference of frequency", 0.05, 0.6, 0.25, 0.05, key="steer-preset-tau")
    rule, amount = _rule_of("specialised")

    def make() -> Made:
        what, _, value = whose.partition(" ")
        ask: dict[str, Any] = {"tau": tau, "pivot": pivot, "resamples": 200} | (
            {"task": value} if what == "task" else {}
        )
        table = context.in_window(context.view("specialised-experts", **ask))
        cells = presets.specialised_for(table, value if what == "language" else None)
        return f"{rule}: {_whose(whose)}, τ {tau:g}", presets.on_cells(rule, cells, amount)

    return make


def _whose(whose: str) -> str:
    what, _, value = whose.partition(" ")
    return words.language_name(value) if what == "language" else f"task {value}"


def _control(context: PageContext) -> Callable[[], Made] | None:
    st.caption("As many experts of each layer as the rules name now, drawn at random, under the same rules.")
    seed = int(st.number_input("Seed", 0, None, 0, key="steer-preset-seed", width=120))
    now = state.draft()
    if not any(rule.kind.experts for rule in now.rules):
        messages.say("The rules name no experts yet: there is nothing to match.")
        return None
    return lambda: (f"control {seed} of {now.name or 'these rules'}",
                    presets.random_control(now.rules, context.trace.routers, seed))  # fmt: skip


def _keep(context: PageContext) -> Callable[[], Made] | None:
    st.caption(
        "All experts but the busiest of each layer are off, as a preview of pruning. "
        "The bar's filter decides whose load counts."
    )
    largest = max(router.num_experts for router in context.routers())
    number = int(
        st.number_input("Experts to keep a layer", 1, largest, max(largest // 2, 1), key="steer-preset-keep")
    )

    def make() -> Made:
        cells = presets.busiest(context.in_window(context.view("load")), number)
        return f"keep the {number} busiest", presets.on_cells("keep_only", cells, None)

    return make


def _fewer(context: PageContext) -> Callable[[], Made] | None:
    most = max((router.top_k or 1 for router in context.routers()), default=1)
    number = int(st.number_input("Experts a token", 1, most, max(most // 2, 1), key="steer-preset-k"))
    return lambda: (f"top {number} of {most}", read_rules([{"rule": "top_k", "amount": number}]))


def _temperature(context: PageContext) -> Callable[[], Made] | None:
    tau = st.number_input("τ", 0.05, None, 2.0, 0.1, key="steer-preset-temperature")
    return lambda: (f"temperature {tau:g}", read_rules([{"rule": "temperature", "amount": tau}]))


def _slice(context: PageContext) -> Callable[[], Made] | None:
    known = slice_menu.fitting(context.trace, experts=True)
    if not known:
        messages.say(
            "No slice of experts of this model is saved. Save one where experts are sent to Steer, as on Resonance."
        )
        return None
    chosen = known[st.selectbox("Slice", list(known), key="steer-preset-slice") or next(iter(known))]
    messages.say(f"{words.amount(len(chosen.experts), 'expert')}.")
    rule, amount = _rule_of("slice")
    return lambda: (f"{rule}: slice {chosen.name}", presets.on_cells(rule, list(chosen.experts), amount))


_KINDS: dict[str, Callable[[PageContext], Callable[[], Made] | None]] = {
    "top N of a contrast": _top_of_contrast,
    "specialised experts": _specialised,
    "a slice of experts": _slice,
    "random control": _control,
    "keep only the busiest": _keep,
    "fewer experts a token": _fewer,
    "router temperature": _temperature,
}
