"""Other saved evaluations beside the open one, on one axis, with the difference prompt by prompt where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from ....store import StoreError
from ....tracer.evaluate import saved as files
from ....tracer.evaluate.compare import Compared, compare_evaluations
from ....tracer.evaluate.effects import ALL
from ....tracer.evaluate.saved import SavedEvaluation
from ...figures import evaluations as figures
from ...sentences import evaluation as sentences
from ...shell import evaluation_line, messages, page_context, show
from ...text import words

MOST = 12
BESIDE = "beside"
"""Parameter of the address: ids of the evaluations beside the open one, with commas between them."""


def draw(
    saved: SavedEvaluation, measure: str, others: list[SavedEvaluation], about: Mapping[str, Any]
) -> None:
    """Draw the choice of others and, where there are some, the comparison.

    Args:
        about: of the first, for reports.
    """
    names = {
        one.id: f"{one.name} · {evaluation_line.when(one)}"
        for one in others
        if one.status().state == "complete"
    }
    if not names:
        return
    st.subheader("Beside other evaluations", anchor=False)
    key = f"evaluation-beside-{saved.id}"
    if (wanted := page_context.asked(BESIDE)) is not None:
        st.session_state[key] = [id for id in wanted.split(",") if id in names][:MOST]
    chosen = st.multiselect(
        "Compare with", list(names), key=key, max_selections=MOST,
        placeholder="no other evaluation", format_func=lambda id: str(names.get(id, id)),
        label_visibility="collapsed",
    )  # fmt: skip
    page_context.remember(BESIDE, ",".join(chosen) or None)
    picked = [one for one in others if one.id in chosen]
    if not picked:
        return
    asked = saved.asked
    group = asked["target"] or ALL
    found = []
    for one in (saved, *picked):
        try:
            found.append(_compared(one))
        except StoreError as error:
            messages.note("error", f"{one.name}: {error}")
    table = compare_evaluations(found, measure, group)
    if table.num_rows < 2:
        messages.say("None of them has this measure on this group.")
        return
    where = "all prompts" if group == ALL else words.value_name(asked["by"] or "", group)
    show.chart(
        lambda theme: figures.beside_chart(table, measure, theme=theme),
        table, name=f"evaluations-{measure}", key="evaluation-beside-chart",
        title=f"Evaluations beside one another, {figures.label_of(measure)}, {where}",
        say=sentences.beside(table, measure, where), about=about,
        python=_python([saved, *picked], measure, group),
    )  # fmt: skip


def _compared(saved: SavedEvaluation) -> Compared:
    asked = saved.asked
    name = f"{saved.name} · {evaluation_line.when(saved)}"
    return Compared(name=name, evaluation=_read(str(saved.folder)), by=asked["by"], target=asked["target"],
                    classes=asked["classes"])  # fmt: skip


@st.cache_resource(max_entries=MOST + 4, show_spinner=False)
def _read(folder: str):
    return files.open_evaluation(folder).evaluation()


def _python(found: list[SavedEvaluation], measure: str, group: str) -> str:
    folders = ", ".join(repr(str(saved.folder.absolute())) for saved in found)
    return (
        "from moescope.tracer.evaluate.compare import Compared, compare_evaluations\n"
        "from moescope.tracer.evaluate.saved import open_evaluation\n\n"
        f"found = []\nfor folder in [{folders}]:\n"
        "    saved = open_evaluation(folder)\n"
        "    choices = {name: saved.asked[name] for name in ('by', 'target', 'classes')}\n"
        "    found.append(Compared(name=saved.name, evaluation=saved.evaluation(), **choices))\n"
        f"table = compare_evaluations(found, {measure!r}, {group!r})\n"
    )
