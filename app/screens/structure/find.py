"""Find an expert: by number, by a token that it fires on, by a tag whose tokens it takes."""

from __future__ import annotations

import re

import pyarrow as pa
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from ....store.errors import UnknownColumn
from ....store.schema import Cell, LayerExpert
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...text import words
from .. import expert_drawer
from .explains import token_table

LISTED = 12
_NUMBERS = re.compile(r"\s*(?:layer|l)?\s*(\d+)\s*(?:[.,:/\s]|expert|e)+\s*(\d+)\s*", re.IGNORECASE)


def cell_in(text: str) -> LayerExpert | None:
    """Layer and expert in `3.17`, `3 17`, `layer 3 expert 17`; None where the text is something else."""
    found = _NUMBERS.fullmatch(text)
    return LayerExpert(int(found[1]), int(found[2])) if found else None


def tag_in(context: PageContext, text: str) -> tuple[str, str] | None:
    """A column and a value of it that the text names, by code or by the language's name."""
    wanted = text.strip().casefold()
    for column, values in context.trace.tags().items():
        for value in values:
            if wanted in (
                value.casefold(),
                words.value_name(column, value).casefold(),
                f"{column}={value}".casefold(),
            ):
                return column, value
    return None


def draw(context: PageContext) -> tuple[DeltaGenerator, bool]:
    """The box, and what was found under it.

    Returns:
        The place of the drawer, which is the same before and after the page's figures are made; and whether an expert
        was opened just now, whose drawer need not wait for them.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        text, new = _box(context)
        numbers = cell_in(text)
        opened = numbers is not None and _by_number(context, Cell(context.stream, *numbers), new=new)
        place = st.container(width="content")
    if numbers is None and text.strip():
        _by_words(context, text)
    return place, opened


def _by_words(context: PageContext, text: str) -> None:
    with messages.guarded("The search failed"):
        by_tag = tag_in(context, text)
        if by_tag:
            _by_tag(context, *by_tag)
        found = _by_token(context, text)
        if not (by_tag or found):
            messages.say(
                "Nothing found: no expert has this number, and no token and no tag of the trace is this text."
            )


def _box(context: PageContext) -> tuple[str, bool]:
    """What was typed, and whether it was typed just now."""
    text = st.text_input(
        "Find an expert", key="seek", bind="query-params", width=420,
        placeholder="layer.expert (3.17), a token (the), or a tag (Japanese)",
    )  # fmt: skip
    before, st.session_state["sought"] = st.session_state.get("sought"), (context.name, text)
    return text, before != (context.name, text)


def _by_number(context: PageContext, cell: Cell, *, new: bool) -> bool:
    """Open the expert that was typed just now, and say so; offer it again where it was closed."""
    spec = next((router for router in context.trace.routers if router.key == cell.router), None)
    if spec is None:
        layers = [router.layer for router in context.trace.routers if router.stream == cell.stream]
        messages.say(f"Layer {cell.layer} has no router; they are in layers {min(layers)} to {max(layers)}.")
    elif cell.expert >= spec.num_experts:
        messages.say(f"Layer {cell.layer} has experts 0 to {spec.num_experts - 1}.")
    elif new:
        expert_drawer.name_in_address(cell)
        return True
    elif expert_drawer.chosen() != cell:
        st.button(f"Open layer {cell.layer}, expert {cell.expert}", key="seek-again",
                  on_click=expert_drawer.name_in_address, args=(cell,))  # fmt: skip
    return False


def _by_tag(context: PageContext, column: str, value: str) -> None:
    ask = {"by": column, "value": value, "limit": LISTED}
    table = context.view("tag-experts", **ask)
    percent = st.column_config.NumberColumn(format="percent")
    chosen = show.table(
        table, name=f"experts-of-{column}-{value}", key="found tag", select="single-row", height="content",
        order=["layer", "expert", "share", "low", "high", "elsewhere", "lift", "chance", "prompts"],
        columns={
            "share": percent, "chance": st.column_config.NumberColumn("even routing", format="percent"),
            "low": st.column_config.NumberColumn("95 % from", format="percent"),
            "high": st.column_config.NumberColumn("to", format="percent"),
            "elsewhere": st.column_config.NumberColumn("of other tokens", format="percent"),
            "lift": st.column_config.NumberColumn("times that", format="%.1f"),
        },
        say=f"The experts whose share of {words.value_name(column, value)} tokens exceeds that of all other tokens "
        "most. Picked as the largest of all: see Resonance for a test. Click a row to open the expert.",
        python=context.snippet("tag-experts", **ask),
    )  # fmt: skip
    expert_drawer.choose_rows(table, chosen, place="found tag")


def _by_token(context: PageContext, text: str) -> bool:
    ask = {"token": text, "per_layer": 2}
    try:
        table = context.in_window(context.view("token-experts", **ask))
    except UnknownColumn:
        return False
    if table.num_rows == 0:
        return False
    chosen = token_table(
        context, _strongest(table), name="experts-of-a-token", key="found token",
        python=context.snippet("token-experts", **ask),
        say=f"The two experts of each layer that take most occurrences of this token, with or "
        f"without spaces around it, largest share first ({words.amount(table['occurrences'][0].as_py(), 'occurrence')}"
        "). Click a row to open the expert.",
    )  # fmt: skip
    expert_drawer.choose_rows(_strongest(table), chosen, place="found token")
    return True


def _strongest(table: pa.Table) -> pa.Table:
    return table.sort_by([("share", "descending"), ("layer", "ascending")])
