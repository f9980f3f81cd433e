"""Whose experts a layer uses, where routers may choose experts of other layers."""

from __future__ import annotations

import streamlit as st

from ...figures.structure.reuse import reuse_map
from ...sentences import timeline as sentences
from ...shell import messages, show
from ...shell.page_context import PageContext
from .parts import nothing, told


def there(context: PageContext) -> bool:
    """Whether any router of the window may choose experts of another layer."""
    return any(spec.owners is not None for spec in context.routers())


def draw(context: PageContext) -> None:
    """The matrix, and its numbers as a table."""
    with messages.loading(height=300):
        table = context.in_window(context.view("reuse"))
    if nothing(table):
        return
    show.chart(
        lambda theme: reuse_map(table, theme=theme), table, name="reuse",
        title="Choices by the layer that owns the expert",
        say=told(sentences.reuse(table), table), python=context.snippet("reuse"),
    )  # fmt: skip
    with st.expander("Numbers"):
        st.dataframe(table, hide_index=True)
