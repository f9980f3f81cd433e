"""What the last contrasts of the Resonance page say of one expert."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ...store.arrow import pc
from ...store.schema import Cell
from ..sentences.resonance import of_expert
from ..shell import messages
from ..shell.page_context import PageContext

KEPT = 3
_KEY = "last contrasts"


def remember(context: PageContext, params: dict[str, Any], names: tuple[str, str]) -> None:
    """Keep a contrast that was drawn, newest first."""
    this = (context.url, names, params)
    others = [kept for kept in st.session_state.get(_KEY, []) if kept[:2] != this[:2]]
    st.session_state[_KEY] = [this, *others][:KEPT]


def draw(context: PageContext, cell: Cell) -> None:
    """A sentence for each contrast of this trace; nothing where there was none."""
    found = [(names, params) for url, names, params in st.session_state.get(_KEY, []) if url == context.url]
    if not found:
        return
    st.markdown("###### In the last contrasts")
    for names, params in found:
        table = context.view("resonance", **params)
        mine = pc.and_(pc.equal(table["layer"], cell.layer), pc.equal(table["expert"], cell.expert))
        rows = table.filter(mine).to_pylist()
        messages.say(of_expert(rows[0] if rows else None, *names))
