"""Figures by keyboard, and the link that skips to the first of them: see `assets/keys.js`."""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2 import component

from .. import ASSETS


@st.cache_resource(show_spinner=False)
def _component():
    return component("moescope.keys", js=(ASSETS / "keys.js").read_text())


def enable() -> None:
    """Every Vega figure of the page takes the focus, arrows and Enter."""
    _component()(key="keyboard")
