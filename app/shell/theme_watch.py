"""Redraw the page when the reader switches between light and dark, or between a wide window and a narrow one.

Streamlit recolours its own widgets without telling Python; the figures' scales are Python's. Nor does it tell how
wide the page is, and a table that does not fit would hide half of its columns.
"""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2 import component

from .. import ASSETS
from ..figures.theme import Theme

NARROW_BELOW = 1160
"""Pixels of the page beside the navigation."""
_KEY = "narrow page"


@st.cache_resource(show_spinner=False)
def _component():
    return component("moescope.theme_watch", js=(ASSETS / "theme_watch.js").read_text())


def watch(theme: Theme) -> None:
    """Rerun the app when the page no longer has this theme, or this side of NARROW_BELOW."""
    told = _component()(
        data={"theme": theme.name, "narrow": narrow(), "below": NARROW_BELOW}, key="theme watch",
        default={"narrow": narrow()}, on_theme_change=lambda: None, on_narrow_change=lambda: None,
    )  # fmt: skip
    st.session_state[_KEY] = bool(told.get("narrow"))


def narrow() -> bool:
    """Whether the page is narrow; wide until the browser has told."""
    return st.session_state.get(_KEY, False)
