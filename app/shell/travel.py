"""Going to another page with something chosen there, from a button's `on_click`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

_KEY = "travel"
_BAR = ("trace", "vs", "slice", "language", "group", "tokens", "layers", "stream")


def to(page: str, **params: Any) -> None:
    """Go to the page of that name when this run begins; `params` are its URL, as in `trace="sample"`.

    What the bar has chosen stays, unless another trace is named.
    """
    st.session_state[_KEY] = (page, params)


def waiting() -> bool:
    """Whether a journey was asked for (a fragment must then rerun the whole app)."""
    return _KEY in st.session_state


def depart(pages: Mapping[str, Any]) -> None:
    """Leave for the page that was asked for, if any; the entry script calls this before it draws."""
    if _KEY not in st.session_state:
        return
    page, params = st.session_state.pop(_KEY)
    if "trace" in params and params["trace"] != st.session_state.get("trace"):
        for key in [key for key in st.session_state if _of_bar(str(key))]:
            del st.session_state[key]
    # Parameters of the bar belong to widgets and can only be changed as their values.
    for name in [name for name in params if _of_bar(name)]:
        st.session_state[name] = params.pop(name)
    if page == "steer" and "cell" in st.query_params:  # the board marks the expert that was open
        params.setdefault("cell", st.query_params["cell"])
    st.switch_page(pages[page], query_params=params)


def _of_bar(name: str) -> bool:
    return name in _BAR or name.startswith("tag.")
