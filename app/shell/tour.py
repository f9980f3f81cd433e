"""A guided tour of the bundled sample, which can be stopped at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from . import messages, travel

_AT = "tour stop"
_STOPS = "tour stops"


class Stop(NamedTuple):
    """A page with something chosen on it, and what to look at."""

    page: str
    params: Mapping[str, str | None]
    says: str


def begin(stops: Sequence[Stop]) -> None:
    """Go to the first stop."""
    st.session_state[_STOPS] = tuple(stops)
    _go(0)


def draw() -> None:
    """The bar of the tour, where one is under way."""
    at, stops = st.session_state.get(_AT), st.session_state.get(_STOPS, ())
    if at is None:
        return
    with st.container(key="tour", horizontal=True, vertical_alignment="center", gap="small"):
        messages.note("plain", f"Tour, stop {at + 1} of {len(stops)}. {stops[at].says}")
        if at + 1 < len(stops):
            st.button("Next stop", key="tour-next", type="primary", on_click=_go, args=(at + 1,))
        st.button("End the tour", key="tour-end", on_click=stop)


def stop() -> None:
    """Forget the tour; the page stays."""
    st.session_state.pop(_AT, None)


def _go(number: int) -> None:
    st.session_state[_AT] = number
    there = st.session_state[_STOPS][number]
    travel.to(there.page, trace="sample", **there.params)
