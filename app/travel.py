"""Going to another page with something chosen there, from a button's `on_click`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

_KEY = "travel"


def to(page: str, **params: str) -> None:
    """Go to the page of that name when this run begins; `params` are its URL, as in `trace="sample"`."""
    st.session_state[_KEY] = (page, params)


def waiting() -> bool:
    """Whether a journey was asked for (a fragment must then rerun the whole app)."""
    return _KEY in st.session_state


def depart(pages: Mapping[str, Any]) -> None:
    """Leave for the page that was asked for, if any; the entry script calls this before it draws."""
    if _KEY in st.session_state:
        page, params = st.session_state.pop(_KEY)
        st.switch_page(pages[page], query_params=params)
