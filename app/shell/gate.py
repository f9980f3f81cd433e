"""Who may see anything: where the app is shared, every browser gives the token once.

That it was given is kept in a cookie, so that reloads and links do not ask again. The cookie holds a digest made with
the token, never the token; another token, as after a restart without `--token-file`, makes it worthless.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time

import streamlit as st
from streamlit.components.v2 import component

from .. import ASSETS, TOKEN
from . import messages

GIVEN = "token given"
WAIT_SECONDS = 1.0
"""After a wrong token, so that guessing is slow."""
KEPT_SECONDS = 12 * 3600
"""How long a browser is not asked again."""


def is_open() -> bool:
    """Whether this session may see anything: nobody is asked on loopback, others have given the token."""
    token = os.environ.get(TOKEN)
    if token is None or st.session_state.get(GIVEN):
        return True
    kept = str(st.context.cookies.get(_name(token), ""))
    st.session_state[GIVEN] = hmac.compare_digest(kept.encode(), _proof(token).encode())
    return st.session_state[GIVEN]


def ask() -> None:
    """Ask for the token, and end the run."""
    token = os.environ[TOKEN]
    messages.empty(
        "This explorer is shared",
        "It asks every visitor for its token, which whoever started it has.",
        todo=f"Give the token once; this browser is not asked again for {KEPT_SECONDS // 3600} hours.",
    )
    with st.form("token", border=False):
        given = st.text_input("Token", type="password")
        sent = st.form_submit_button("Enter", type="primary")
    if sent:
        if hmac.compare_digest(given.strip().encode(), token.encode()):
            st.session_state[GIVEN] = True
            st.rerun()
        time.sleep(WAIT_SECONDS)
        messages.note("error", "That is not the token.")
    st.stop()


def keep() -> None:
    """Let the browser remember that the token was given; draws nothing."""
    token = os.environ.get(TOKEN)
    if token is not None:
        told = {"name": _name(token), "proof": _proof(token), "seconds": KEPT_SECONDS}
        _component()(data=told, key="gate")


@st.cache_resource(show_spinner=False)
def _component():
    return component("moescope.gate", js=(ASSETS / "gate.js").read_text())


def _name(token: str) -> str:
    """Name of the cookie: apps of one host have their own."""
    return f"moescope-{hashlib.sha256(token.encode()).hexdigest()[:8]}"


def _proof(token: str) -> str:
    return hmac.new(token.encode(), b"moescope app", hashlib.sha256).hexdigest()
