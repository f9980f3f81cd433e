"""Do the experts of this contrast coincide with those of another?"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.notes import notes_of
from ...figures import resonance as figures
from ...sentences import resonance as sentences_resonance
from ...shell import messages, show
from ...shell.page_context import PageContext
from ...text import words
from .groups import ALL_OTHERS, Contrast

SIDES = ("by", "target", "rest", "rules", "classes")
"""Parameters that say who is contrasted with whom."""


def draw(context: PageContext, table: pa.Table, contrast: Contrast, params: dict[str, Any]) -> None:
    """Draw the section; a second contrast is by a tag."""
    columns = [name for name, values in context.trace.tags().items() if len(values) > 1]
    if not columns:
        return
    st.subheader("Against a second contrast", anchor=False)
    other = _choose(context, columns)
    if other is None:
        messages.say("Choose a second contrast to see whether its top experts are the same.")
        return
    by, target, rest = other
    with messages.guarded("The second contrast could not be made"), messages.loading(height=300):
        sides: dict[str, Any] = {"other_by": by, "other_target": [target]} | (
            {"other_rest": [rest]} if rest else {}
        )
        asked = {name: value for name, value in params.items() if name not in ("among", "ranking")}
        shared = context.view("resonance-overlap", top=params["among"], **asked, **sides)
        span = {name: value for name, value in asked.items() if name not in SIDES}
        second: dict[str, Any] = {"by": by, "target": [target], **({"rest": [rest]} if rest else {}), **span}
        scores = context.view("resonance", **second)
        names = (
            f"{contrast.names[0]} − {contrast.names[1]}",
            f"{words.value_name(by, target)} − {_rest(by, rest)}",
        )
        tops = tuple(figures.top_toward(one, params["among"]) for one in (table, scores))
        show.chart(
            lambda theme: figures.two_scores(table, scores, (tops[0], tops[1]), names, theme=theme),
            scores, name="resonance-overlap", title=f"{names[0]} and {names[1]}",
            say=sentences_resonance.overlap(shared.to_pylist()[0]),
            python=context.snippet("resonance-overlap", top=params["among"], **asked, **sides),
        )  # fmt: skip
        messages.note("plain", " ".join(notes_of(shared)))


def _choose(context: PageContext, columns: list[str]) -> tuple[str, str, str | None] | None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        by = st.selectbox("Its tag", columns, key="other-tag", bind="query-params", width=170)
        values = context.trace.tags()[by]
        for key in ("other-target", "other-rest"):
            if st.session_state.get(key) not in [*values, ALL_OTHERS]:
                st.session_state.pop(key, None)
        target = st.selectbox(
            "Its A", values, index=None, placeholder="choose", key="other-target", bind="query-params",
            width=230, format_func=lambda v: words.option(by, v),
        )  # fmt: skip
        others = [ALL_OTHERS, *(value for value in values if value != target)]
        rest = st.selectbox("Its B", others, key="other-rest", bind="query-params", width=230,
                            format_func=lambda v: v if v == ALL_OTHERS else words.option(by, v))  # fmt: skip
    return None if target is None else (by, target, None if rest == ALL_OTHERS else rest)


def _rest(by: str, rest: str | None) -> str:
    return ALL_OTHERS if rest is None else words.value_name(by, rest)
