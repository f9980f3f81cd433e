"""Slices on a page: chosen in the bar's filter, saved from a filter, from picked prompts and from experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from ...store import StoreError, Trace
from ...store.library import fingerprint
from ...store.schema import Cell
from ...store.slices import Slice, delete_slice, load_slices, save_slice, weights_of
from ..text import words
from . import link_check, messages, sources


def fitting(trace: Trace, *, experts: bool) -> dict[str, Slice]:
    """The slices that mean something on a trace, by name: those of experts, or those of prompts and tokens."""
    try:
        known = load_slices(sources.library())
    except StoreError as error:
        messages.note("error", str(error))
        return {}
    return {one.name: one for one in known if bool(one.experts) == experts and one.fits(trace)}


def choose(trace: Trace) -> Slice | None:
    """The box of the bar's filter, bound to the address; not drawn where no slice fits."""
    known = fitting(trace, experts=False)
    if not known:
        link_check.look("slice", (), what="the slice")
        return None
    name = link_check.selectbox(
        "slice", list(known), key="slice", what="the slice", index=None, placeholder="none"
    )
    return known.get(name or "")


def chosen_name(trace: Trace) -> str | None:
    """The slice that the bar's filter has chosen, as its label shows it before the box is drawn."""
    name = st.session_state.get("slice") or st.query_params.get("slice")
    return name if name and name in fitting(trace, experts=False) else None


def save(trace: Trace, *, where: Mapping[str, Sequence[str]] | None = None, tokens: str = "all",
         experts: Sequence[Cell] = (), key: str, label: str = "Save as slice") -> None:  # fmt: skip
    """A popover that names a selection and keeps it; feedback stands beside its button."""
    empty = not where and tokens == "all" and not experts
    with (
        st.popover(label, type="tertiary", disabled=empty, key=f"slice-{key}"),
        st.form(f"slice-form-{key}", border=False),
    ):
        name = st.text_input("Name", placeholder="short refusals", key=f"slice-name-{key}")
        messages.say(_held(where or {}, tokens, experts))
        if st.form_submit_button("Save"):
            made = Slice(
                name=name or "", where=dict(where or {}), tokens=tokens, experts=tuple(experts),
                model=weights_of(trace) if experts else "", trace=fingerprint(trace),
            )  # fmt: skip
            _tell(lambda: f"Saved as “{save_slice(sources.library(), made).name}”.")


def delete(name: str) -> None:
    """Remove a slice; for a button's `on_click`."""
    try:
        delete_slice(sources.library(), name)
    except (StoreError, OSError) as error:
        st.toast(words.label(f"It could not be deleted: {error}"), icon=":material/error:")


def _tell(work: Callable[[], str]) -> None:
    try:
        messages.note("plain", work())
    except (StoreError, OSError) as error:
        messages.note("error", f"It was not saved: {error}")


def _held(where: Mapping[str, Sequence[str]], tokens: str, experts: Sequence[Cell]) -> str:
    """What will be in it, in words."""
    if experts:
        return f"{words.amount(len(experts), 'expert')} of this model."
    kinds = f", tokens: {tokens}" if tokens != "all" else ""
    prompts = words.selection(where)
    return f"{prompts[:1].upper()}{prompts[1:]}{kinds}."
