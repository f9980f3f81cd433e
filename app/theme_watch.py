"""Redraw the page when the reader switches between light and dark.

Streamlit recolours its own widgets without telling Python; the figures' scales are Python's.
"""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2 import component

from . import ASSETS
from .theme import Theme


@st.cache_resource(show_spinner=False)
def _component():
    return component("moescope.theme_watch", js=(ASSETS / "theme_watch.js").read_text())


def watch(theme: Theme) -> None:
    """Rerun the app when the page no longer has this theme."""
    with st.container(key="theme-watch"):
        _component()(data={"theme": theme.name}, key="theme watch", on_theme_change=lambda: None)
