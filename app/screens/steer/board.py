"""The left half of the Steer page: the switchboard, the brush, and the rules with the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from ....store.schema import Cell, RouterSpec
from ....store.views.experts.load_difference import with_measure
from ....tracer.steering.check import problems_with
from ....tracer.steering.rules import KINDS, Rule
from ....tracer.steering.span import PositionSpan
from ... import export
from ...figures.steer_map import switchboard_map
from ...sentences import answers as sentences_steering
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...steering.edit import cycle, layer_rules, made_at, paint
from ...steering.edit import states as states_of
from ...text import words
from . import contrast, forms, panel, switchboard
from . import rules as steer_rules
from . import state as steer_state
from .server import Served

BOARD = "steer-board"
CYCLE = "off → on → neutral"
BRUSHES = (CYCLE, *made_at("board"))
SPANS = {"all tokens": "all", "prompt only": "prompt", "generated only": "generation"}


@st.fragment
def draw(context: PageContext, served: Served, tool: str | None = None, *, wide: bool = False) -> None:
    """Draw the half, or all of the page's width (`wide`); `tool` is what the panel at its side shows, None where it is
    closed."""
    with messages.guarded("The switchboard could not be drawn"):
        fits = steer_state.write_address(context.trace.manifest.model.get("name"))
        if tool is None:
            _switchboard(context, served)
        else:
            side, rest = st.columns([1, 3] if wide else [2, 3], gap="medium")
            with side:
                panel.draw(tool, context, served, fits)
            with rest:
                _switchboard(context, served)
    live = bool(st.session_state.get("steer-live"))
    if steer_state.edited() and (live or st.session_state.get("steer result")):
        # The other half must answer anew, or say that its answers are of an earlier steering.
        st.session_state["steer run"] = live
        st.rerun()


def _switchboard(context: PageContext, served: Served) -> None:
    _brush()
    _misfits(context, served)
    _board(context)
    steer_rules.draw(context)


def _misfits(context: PageContext, served: Served) -> None:
    """Say where trace, model and profile do not belong together."""
    routers = served.routers or list(context.trace.routers)
    if found := problems_with(steer_state.draft().rules, routers):
        messages.card(
            "This steering does not fit the model", " · ".join(found[:6]) + (" · …" if len(found) > 6 else ""),
            kind="error", todo=f"The model has {shape(routers)}. Undo, or remove the rules that are named.",
        )  # fmt: skip
    if served.routers and _places(served.routers) != _places(context.trace.routers):
        messages.note(
            "error",
            f"The map is of a trace of another model: it has {shape(context.trace.routers)}, "
            f"the model that answers has {shape(served.routers)}.",
        )


def shape(routers: Sequence[RouterSpec]) -> str:
    """`8 MoE layers (0–7) of 32 experts`."""
    layers = sorted({router.layer for router in routers})
    experts = sorted({router.num_experts for router in routers})
    if not layers:
        return "no MoE layer"
    across = str(experts[0]) if len(experts) == 1 else f"{experts[0]} to {experts[-1]}"
    return f"{words.amount(len(layers), 'MoE layer')} ({layers[0]}–{layers[-1]}) of {across} experts"


def _places(routers: Sequence[RouterSpec]) -> set[tuple[str, int, int]]:
    return {(router.stream, router.layer, router.num_experts) for router in routers}


def _brush() -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        rule = st.selectbox(
            "A click or a box sets", BRUSHES, key="steer-brush", width=190, help=_explained(),
            format_func=lambda name: name.replace("_", " "),
        )  # fmt: skip
        if rule in KINDS:
            forms.ask(KINDS[rule], f"steer-{rule}")
        st.selectbox("at", list(SPANS), key="steer-span", width=150)
        contrast.beneath_choice()


def _explained() -> str:
    return "\n\n".join(f"**{name.replace('_', ' ')}**: {KINDS[name].summary}" for name in BRUSHES[1:])


def brush() -> Rule | None:
    """The rule that a click sets, without layers and experts; None to cycle."""
    state = st.session_state
    name = state.get("steer-brush") or CYCLE
    if name == CYCLE:
        return None
    amount, options = forms.answered(KINDS[name], f"steer-{name}")
    return Rule(name, amount=amount, span=span(), options=options)


def span() -> PositionSpan:
    """When a new rule acts."""
    return PositionSpan.read(SPANS[st.session_state.get("steer-span") or "all tokens"])


def _board(context: PageContext) -> None:
    with messages.loading(height=300):
        under = contrast.underlay(context) or load(context)
    if not under.table.num_rows:
        messages.empty("Nothing to switch", "No router lies in the layer window, or no prompt passes the filter.",
                     todo="Widen the layer window or clear the filter in the bar above.")  # fmt: skip
        return
    rules = steer_state.draft().rules
    routers = context.trace.routers
    found = states_of(rules, routers)
    switchboard.switchboard(
        under,
        found,
        layer_rules(rules, routers),
        theme=context.theme,
        key=BOARD,
        on_edit=_edit,
        args=(context,),
    )
    say = sentences_steering.board(found, context.in_window(context.view("load")))
    messages.say(say)

    def picture() -> dict[str, Any]:
        chart = switchboard_map(under.table, found, label=under.label, diverging=under.diverging)
        return export.specification(chart, title="Switchboard", say=say, source=context.source())

    files: dict[str, Callable[[], bytes]] = {
        "PNG": lambda: export.to_png(picture()),
        "SVG": lambda: export.to_svg(picture()),
        "HTML": lambda: export.to_html(picture(), title="Switchboard"),
    }
    show.actions(files | show.numbers(under.table), name="switchboard", key="switchboard")


def load(context: PageContext) -> switchboard.Underlay:
    """The share of tokens of each expert beneath the board."""
    table = with_measure(context.in_window(context.view("load")), "share")
    who = words.selection(context.where) if context.where else "all prompts"
    return switchboard.Underlay(
        table=table.select(["stream", "layer", "expert", "value"]), label=f"share of tokens, {who}"
    )


def _edit(context: PageContext) -> None:
    known = {router.key: router.num_experts for router in context.trace.routers}
    for edit in switchboard.edits(BOARD):
        _apply(context, [cell for cell in edit if cell.expert < known.get(cell.router, 0)])


def _apply(context: PageContext, cells: list[Cell]) -> None:
    """One click or box, a step of its own on the way back."""
    if not cells:
        return
    routers, chosen = context.trace.routers, brush()
    if chosen is None:
        steer_state.edit(lambda rules: cycle(rules, cells, routers, span()))
    else:
        steer_state.edit(lambda rules: paint(rules, cells, chosen, routers))
