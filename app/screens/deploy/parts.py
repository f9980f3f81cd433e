"""What the tabs of the Deploy page share."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import streamlit as st

from ....store.errors import DecisionRefused
from ....store.notes import notes_of
from ...shell import messages
from ...shell.page_context import PageContext


def window_text(context: PageContext) -> str:
    """The layers of the bar's window as views take them."""
    numbers = [router.layer for router in context.routers()]
    return f"{min(numbers)}:{max(numbers)}"


def decided(make: Callable[[], pa.Table], title: str, *, height: int = 280) -> pa.Table | None:
    """A table of a decision; None, with a card that says what it lacks, where it can't be made."""
    try:
        with messages.loading(height=height):
            table = make()
    except DecisionRefused as error:
        said = str(error)[:1].upper() + str(error)[1:]
        # A command at the end is copied: no full stop behind it.
        messages.empty(title, said if "run: " in said or said.endswith(".") else f"{said}.")
        return None
    if table.num_rows:
        return table
    why = next(iter(notes_of(table)), "No token passes the filter.")
    messages.empty(title, why, todo="Widen the filter in the bar above, or choose other tokens there.")
    return None


def take(label: str, make: Callable[[], str], name: str, *, key: str) -> None:
    """The file to take away: the one coloured button of a tab."""
    mime = "application/json" if name.endswith(".json") else "text/plain"
    st.download_button(
        label,
        make,
        file_name=name,
        mime=mime,
        type="primary",
        icon=":material/download:",
        on_click="ignore",
        key=key,
    )


def notes(table: pa.Table) -> None:
    """The notes of a table, under its picture."""
    messages.say(" ".join(notes_of(table)))
