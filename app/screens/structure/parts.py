"""What the parts of the Structure page share."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from ....store.arrow import pc
from ....store.notes import notes_of
from ...shell import link_check, messages, page_context
from ...shell.page_context import PageContext


def tag_box(context: PageContext, label: str = "By", *, key: str = "by") -> str | None:
    """A tag of the prompts to choose; None, with a card that says why, where there is none."""
    columns = context.tags()
    if not columns:
        messages.empty(
            "No tags",
            "The prompts of this trace have no language, group or tag to compare.",
            todo="Trace a prompt set with a column language, group or any other.",
        )
        return None
    chosen = link_check.selectbox(label, columns, key=key, what="the column", width=190, format_func=str)
    link_check.tell(key)
    return chosen


def window_text(context: PageContext) -> str:
    """The layers of the bar's window as views take them."""
    numbers = [router.layer for router in context.routers()]
    return f"{min(numbers)}:{max(numbers)}"


def nothing(table: pa.Table) -> bool:
    """Whether a table has no rows; says why."""
    if table.num_rows:
        return False
    notes = notes_of(table)
    # The first note says why; where the view could tell no reason of its own, one of its others does.
    why = next((note for note in notes if note.startswith(("No ", "Only ", "There is no"))), (*notes, "")[0])
    here = page_context.current()
    chosen = here is None or bool(here.where) or here.tokens != "all"
    messages.empty(
        "Nothing to show",
        why or "No token passes the filter.",
        todo="Widen the filter in the bar above." if chosen else "",
    )
    return True


def told(sentence: str, table: pa.Table) -> str:
    """A sentence, and the notes of the table that it is about."""
    return " ".join([sentence, *notes_of(table)])


def phase_box(table: pa.Table) -> tuple[str, pa.Table]:
    """The phase to show, decode where there is one, and its rows."""
    there = set(table["phase"].to_pylist())
    names = {"decode": "generated tokens", "prefill": "prompt tokens", "unknown": "tokens of unknown phase"}
    phases = [phase for phase in names if phase in there]
    chosen = phases[0]
    if len(phases) > 1:
        chosen = st.segmented_control(
            "Tokens", phases, default=phases[0], key="of phase", bind="query-params", required=True,
            format_func=names.__getitem__,
        ) or phases[0]  # fmt: skip
    return chosen, table.filter(pc.equal(table["phase"], chosen))
