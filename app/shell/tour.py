"""A guided tour of six stops on the bundled sample, which can be stopped at any time."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from . import messages, travel

_AT = "tour stop"


class Stop(NamedTuple):
    """A page with something chosen on it, and what to look at."""

    page: str
    params: dict[str, str]
    says: str


STOPS = (
    Stop(
        "heatmap", {},
        "Each row is a layer, each square an expert; dark squares get many tokens. Even routing would make all squares "
        "alike. Click one to see what it reads.",
    ),
    Stop(
        "tokens", {"prompt": "udhr-01/ja", "beneath": "ar"},
        "One text, token by token. The stripe beneath a character has its first expert's colour; move the slider from "
        "the input to the output and watch the colours change.",
    ),
    Stop(
        "structure", {},
        "How much of the choice does the token alone explain, and how much the position or the layer before?",
    ),
    Stop(
        "alignment", {},
        "Each line is a language: how far its routing departs from English, layer by layer, over the same texts. Rest "
        "the pointer on a name to lift its line.",
    ),
    Stop(
        "resonance", {"contrast": "language", "target": "Japanese (ja)"},
        "Which experts respond to Japanese more than to all other languages? Every score comes with a test; the table "
        "names the tokens behind it.",
    ),
    Stop(
        "steer", {},
        "The same model, live. Click a square to switch an expert off, then Generate: both answers stand side by side, "
        "with what differs token by token.",
    ),
)  # fmt: skip


def begin() -> None:
    """Go to the first stop."""
    _go(0)


def draw() -> None:
    """The bar of the tour, where one is under way."""
    at = st.session_state.get(_AT)
    if at is None:
        return
    with st.container(key="tour", horizontal=True, vertical_alignment="center", gap="small"):
        messages.note("plain", f"Tour, stop {at + 1} of {len(STOPS)}. {STOPS[at].says}")
        if at + 1 < len(STOPS):
            st.button("Next stop", key="tour-next", type="primary", on_click=_go, args=(at + 1,))
        st.button("End the tour", key="tour-end", on_click=stop)


def stop() -> None:
    """Forget the tour; the page stays."""
    st.session_state.pop(_AT, None)


def _go(number: int) -> None:
    st.session_state[_AT] = number
    travel.to(STOPS[number].page, trace="sample", **STOPS[number].params)
