"""The steering on the page, kept for the session and in the address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

from ....tracer.errors import SteeringError
from ...shell import link_check
from ...shell.page_context import asked, remember
from ...steering import profiles
from ...steering.edit import Rules
from ...steering.history import Draft, History

_HISTORY, _STALE, _TYPED = "steer history", "steer edited", "steer typed name"


def history() -> History:
    return st.session_state.setdefault(_HISTORY, History())


def draft() -> Draft:
    """The steering that is on the page."""
    return history().now


def profile(model: Any) -> dict[str, Any]:
    """The steering as a profile of that model."""
    return draft().to_json(model)


def put(new: Draft) -> None:
    """Take a step to another draft."""
    if new != draft():
        st.session_state[_HISTORY] = history().then(new)
        st.session_state[_STALE] = True


def edit(change: Callable[[Rules], Rules], *, name: str | None = None) -> None:
    """Change the rules, and the name where one is given. A name that a file or preset gave is no longer true of
    other rules, so it goes; one that the user typed stays."""
    kept = draft().name if draft().name == st.session_state.get(_TYPED) else ""
    put(Draft(change(draft().rules), kept if name is None else name))


def rename(name: str) -> None:
    """Give the steering the name that the user typed."""
    st.session_state[_TYPED] = name
    put(Draft(draft().rules, name))


def redraw() -> None:
    """Run the half of the page again that an edit in its middle has changed; all of it where all is being drawn."""
    context = get_script_run_ctx()
    st.rerun(scope="fragment" if context is not None and context.fragment_ids_this_run else "app")


def undo() -> None:
    st.session_state[_HISTORY] = history().undo()
    st.session_state[_STALE] = True


def redo() -> None:
    st.session_state[_HISTORY] = history().redo()
    st.session_state[_STALE] = True


def edited() -> bool:
    """Whether the steering changed since this was last asked."""
    return bool(st.session_state.pop(_STALE, False))


def take_from_address() -> str | None:
    """Load the profile that the address names, where it is another than the page's. Returns why it could not."""
    word = asked("profile")
    if word is None:
        return None
    try:
        put(Draft.from_json(profiles.from_address(word)))
    except (ValueError, SteeringError) as error:
        remember("profile", None)
        return str(error)
    return None


def write_address(model: Any) -> bool:
    """Put the steering into the address; False where it is too long for one."""
    now = draft()
    word = profiles.in_address(now.to_json(model)) if now.rules else None
    remember("profile", word)
    if now.rules and word is None:
        link_check.leave_out("the profile, which is too long for an address: send it as a file")
    return word is not None or not now.rules
