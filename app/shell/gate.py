"""Who may see anything: where the app is shared, every session gives the token once."""

from __future__ import annotations

import hmac
import os
import time

import streamlit as st

from .. import TOKEN
from . import messages

GIVEN = "token given"
WAIT_SECONDS = 1.0
"""After a wrong token, so that guessing is slow."""


def stop_without_token() -> None:
    """Ask for the token and end the run where this session has not given it. Nothing is asked on loopback."""
    token = os.environ.get(TOKEN)
    if token is None or st.session_state.get(GIVEN):
        return
    messages.empty(
        "This explorer is shared",
        "It asks every visitor for its token, which whoever started it has.",
        todo="Give the token once; it holds while this tab is open.",
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
