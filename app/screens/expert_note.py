"""The reader's note on one expert: kept with the library, and pinned to a report like a figure."""

from __future__ import annotations

import streamlit as st

from .. import expert_notes
from ..reports.item import Item, origin
from ..shell import messages, sources, take_away
from ..shell.page_context import PageContext


def draw(context: PageContext, stream: str, layer: int, expert: int) -> None:
    """A text box with what was written before, saved when it is left."""
    cell = f"{stream}.{layer}.{expert}"
    key = f"note {context.name} {cell}"
    try:
        known = expert_notes.load(sources.library(), context.name).get(cell, "")
    except expert_notes.NotesError as error:
        messages.note("error", f"Notes on experts can't be shown: {error}.")
        return
    st.text_area(
        "Note", known, key=key, max_chars=expert_notes.LONGEST, height=90, on_change=_save,
        args=(context.name, cell, key), placeholder="What this expert seems to do. Kept with the library.",
    )  # fmt: skip
    if known:
        take_away.pin_button(lambda: _item(context, known, layer, expert), "drawer-note")


def _save(trace: str, cell: str, key: str) -> None:
    try:
        expert_notes.save(sources.library(), trace, cell, str(st.session_state[key]))
    except (expert_notes.NotesError, OSError) as error:
        st.toast(f"The note was not kept: {type(error).__name__}", icon=":material/error:")


def _item(context: PageContext, text: str, layer: int, expert: int) -> Item:
    return Item(
        kind="note",
        title=f"Layer {layer}, expert {expert}",
        say=text,
        about=origin(context.trace, context.name),
    )
