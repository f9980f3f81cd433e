"""Profiles in and out of the Steer page: files, the library's own folder, and the address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from ....tracer.errors import SteeringError
from ...shell import messages, show, sources
from ...shell.page_context import PageContext
from ...steering import profiles
from ...steering.history import Draft
from ...text.literal import safe_name
from . import state

_WRONG = "steer wrong file"


def draw(context: PageContext, fits: bool) -> None:
    """Load, save, share; `fits` says whether the address holds the whole steering."""
    model = context.trace.manifest.model.get("name")
    draft = state.draft()
    st.file_uploader("Load a profile", type=["json"], key="steer-upload", on_change=_uploaded)
    kept = profiles.saved(sources.library())
    if kept:
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            chosen = st.selectbox("or one of the library", list(kept), key="steer-kept")
            st.button("Load", key="steer-load", on_click=_load, args=(kept.get(chosen or ""),))
    if wrong := st.session_state.get(_WRONG):
        messages.card(
            "This profile can't be used", wrong, kind="error", todo="The steering on the page is as it was."
        )
    st.divider()
    st.text_input("Name", value=draft.name, key=f"steer-name {draft.name}", on_change=_rename, args=(draft.name,),
                  placeholder="what this steering is for")  # fmt: skip
    made = draft.to_json(model)
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "JSON file", lambda: profiles.as_file(made), file_name=f"{safe_name(draft.name or 'profile')}.json",
            mime="application/json", on_click="ignore", disabled=not draft.rules, key="steer-download",
        )  # fmt: skip
        st.button("Save in the library", key="steer-save", on_click=_save, args=(made,),
                  disabled=not (draft.rules and draft.name))  # fmt: skip
    if said := st.session_state.pop("steer saved", None):
        messages.say(said)
    st.divider()
    if fits:
        st.caption("This address opens the page with this steering:")
        st.code(show.link(), language=None, wrap_lines=True)
    else:
        messages.say("The steering is too long for an address: share the JSON file instead.")


def _uploaded() -> None:
    file = st.session_state.get("steer-upload")
    if file is not None:
        _take(file.getvalue(), str(file.name))


def _load(path: Path | None) -> None:
    if path is not None:
        try:
            _take(profiles.read_kept(path), path.name)
        except OSError as error:
            st.session_state[_WRONG] = str(error)


def _take(data: bytes, name: str) -> None:
    try:
        draft = Draft.from_json(data)
    except (SteeringError, ValueError) as error:
        st.session_state[_WRONG] = f"{name}: {error}"
        return
    st.session_state.pop(_WRONG, None)
    state.put(draft if draft.name else Draft(draft.rules, Path(name).stem))


def _rename(before: str) -> None:
    name = st.session_state.get(f"steer-name {before}") or ""
    state.rename(name.strip()[:200])


def _save(made: dict[str, Any]) -> None:
    try:
        path = profiles.keep(sources.library(), made)
        st.session_state["steer saved"] = f"Saved as {path.name} in the library's profiles."
    except OSError as error:
        st.session_state[_WRONG] = f"It could not be saved: {error}"
