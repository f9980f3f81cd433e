"""Figures by keyboard, links that skip to them, and one chosen expert or token marked in all figures of a page.

The scripts stand behind one another in `assets/`: `marks.js` knows where the marks of a figure are, `linked.js` rings
what is chosen, `keys.js` hears the keys.
"""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2 import component

from .. import ASSETS

SCRIPTS = ("marks.js", "linked.js", "keys.js")


@st.cache_resource(show_spinner=False)
def _component():
    return component("moescope.keys", js="\n".join((ASSETS / name).read_text() for name in SCRIPTS))


def enable() -> None:
    """Every figure of the page takes the focus, arrows and Enter, and marks what is chosen."""
    _component()(key="keyboard")
