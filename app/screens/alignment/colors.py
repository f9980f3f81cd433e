"""What the lines are coloured by: family, script, a tag, an uploaded class, or a score."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from ....store import StoreError
from ....store.views.alignment.alignment_scores import language_scores
from ...shell import link_check, messages
from ...shell.page_context import PageContext
from .tables import LanguageTable, read_table

FAMILY, SCRIPT, RESOURCES, ACCURACY = "language family", "script", "resource class", "accuracy"
KEY = "lines"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Known scores of languages."""

    of: dict[str, dict[str, float]] = field(default_factory=dict)
    """Name → language → score; uploaded ones, then the accuracy in the trace."""

    def first(self) -> tuple[str, dict[str, float]] | None:
        return next(iter(self.of.items()), None)


def upload() -> LanguageTable:
    """Draw the upload of a table; what was uploaded stays for the session."""
    with st.popover("Scores or classes", icon=":material/upload:", width=220):
        given = st.file_uploader(
            "A CSV with a column language, and columns of scores or of classes (such as a resource class)",
            type=["csv"], key="scores file",
        )  # fmt: skip
        if given is not None:
            try:
                st.session_state["language table"] = read_table(given.getvalue())
            except StoreError as error:
                messages.problem(error, doing="The table could not be read")
        if "language table" in st.session_state:
            st.button("Forget the table", key="forget table", on_click=_forget)
    table = st.session_state.get("language table")
    if table is not None:
        link_check.leave_out("the uploaded table of languages")
    return table or LanguageTable()


def _forget() -> None:
    for key in ("language table", "scores file"):
        st.session_state.pop(key, None)


def known_scores(context: PageContext, table: LanguageTable) -> Scores:
    """Uploaded scores, and the accuracy of prompts with choices."""
    found = dict(table.scores)
    # Without choices and answers the prompts have no accuracy to offer.
    with suppress(StoreError):
        found[ACCURACY] = language_scores(context.trace, None, dict(context.where))[0]
    return Scores(of=found)


def choose(context: PageContext, table: LanguageTable, scores: Scores) -> dict[str, Any]:
    """Draw the choice; returns the arguments of `figures.alignment.by_layer` that it means."""
    tags = [name for name, values in context.trace.tags().items() if name != "language" and len(values) > 1]
    options = list(dict.fromkeys([FAMILY, SCRIPT, RESOURCES, *tags, *table.classes, *scores.of]))
    if KEY in st.session_state and st.session_state[KEY] not in options:
        del st.session_state[KEY]
    chosen = st.selectbox("Lines coloured by", options, key=KEY, bind="query-params", width=200) or FAMILY
    if chosen in scores.of:
        return {"scores": (chosen, scores.of[chosen])}
    if chosen == FAMILY:
        return {}
    return {"classes": (chosen, _classes(context, table, chosen))}


def _classes(context: PageContext, table: LanguageTable, chosen: str) -> Mapping[str, str | None]:
    if chosen in table.classes:
        return table.classes[chosen]
    built_in = chosen == RESOURCES and chosen not in context.trace.tags()
    found = context.view("language-classes", by="resources" if built_in else chosen)
    return dict(zip(found["language"].to_pylist(), found["class"].to_pylist(), strict=True))
