"""The saved evaluations of the library: a table beside that of traces, and lines for those that run."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....tracer.evaluate import saved as files
from ....tracer.evaluate.saved import SavedEvaluation
from ...shell import evaluation_line, messages, show, sources, travel
from ...shell.page_context import PageContext
from ...steering import evaluations
from ...steering.servers import short
from ...text import words


def draw(context: PageContext | None) -> None:
    """Draw the table; nothing where there are no evaluations.

    Args:
        context: None where no trace is open; an evaluation is shown beside one.
    """
    found = files.list_evaluations(sources.library())
    if not found:
        return
    st.subheader("Evaluations", anchor=False)
    rows = pa.Table.from_pylist([_row(saved) for saved in found])
    chosen = show.table(
        rows, name="evaluations", height="content", select="single-row",
        say=f"{words.amount(len(found), 'evaluation')}; choose a row to open or delete it.",
        columns={"prompts": st.column_config.NumberColumn(format="localized")},
    )  # fmt: skip
    if not chosen or chosen[0] >= len(found):
        return
    saved = found[chosen[0]]
    with st.container(horizontal=True, vertical_alignment="center", key="evaluation-actions"):
        st.button(
            "Open",
            type="primary",
            key="evaluation-go",
            disabled=context is None,
            on_click=_open,
            args=(saved,),
        )
        st.button(
            "Delete", key="evaluation-bin", on_click=_delete, args=(saved,), help="Moves it to the bin below."
        )


def _row(saved: SavedEvaluation) -> dict[str, Any]:
    asked, status = saved.asked, saved.status()
    split = f"by {asked['by']}" if asked["by"] else ""
    return {
        "evaluation": saved.name,
        "state": "complete" if status.state == "complete" else status.state,
        "model": short(asked["model"]),
        "prompts": len(asked["prompts"]),
        "split": split + (f", on {asked['target']}" if asked["target"] else ""),
        "controls": asked["options"]["controls"],
        "took": words.duration(status.seconds) if status.state == "complete" else "",
        "made (UTC)": evaluation_line.when(saved),
        "id": saved.id,
    }  # fmt: skip


def _open(saved: SavedEvaluation) -> None:
    travel.to("steer", **{"steer-show": "evaluate", "evaluation": saved.id})


def _delete(saved: SavedEvaluation) -> None:
    with messages.guarded("It could not be deleted"):
        evaluations.delete(sources.library(), saved)


def running() -> list[SavedEvaluation]:
    """Those that are at work."""
    return [saved for saved in files.list_evaluations(sources.library()) if not saved.status().ended]
