"""Rename, tag and bin a trace of the library; what is in the bin."""

from __future__ import annotations

import time

import streamlit as st

from ....store import library_edit
from ....store.library_edit import Binned
from ...shell import messages, sources
from ...text import words


def draw(name: str) -> None:
    """The row of changes for a trace that lies in the library itself."""
    library = sources.library()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        with st.popover("Rename"), st.form(f"rename-{name}", border=False):
            new = st.text_input("New name", name)
            if st.form_submit_button("Rename") and new.strip() != name:
                with messages.guarded("It could not be renamed"):
                    library_edit.rename(library, name, new.strip())
                    st.rerun()
        with st.popover("Tags"), st.form(f"tags-{name}", border=False):
            known = library_edit.tags_of(library)
            every = sorted({tag for tags in known.values() for tag in tags})
            chosen = st.multiselect("Tags", every, known.get(name, []), accept_new_options=True)
            if st.form_submit_button("Keep"):
                with messages.guarded("The tags could not be kept"):
                    library_edit.set_tags(library, name, chosen)
                    st.rerun()
        if st.button("Delete", key=f"bin-{name}", help="Moves it to the bin below."):
            with messages.guarded("It could not be deleted"):
                library_edit.to_bin(library, name)
                st.rerun()


def draw_bin() -> None:
    """What was deleted, to be restored or removed for good; nothing where the bin is empty."""
    found = library_edit.binned(sources.library())
    if not found:
        return
    kinds = {
        noun: sum((one.place != "") == later for one in found)
        for noun, later in (("trace", False), ("evaluation", True))
    }
    held = words.listing(words.amount(number, noun) for noun, number in kinds.items() if number)
    with st.expander(f"Bin: {held}"):
        for one in found:
            _line(one)
        with st.popover("Empty the bin"):
            st.caption("The traces and evaluations in it are removed from the disk and cannot be restored.")
            if st.button("Remove them for good", key="empty-bin"):
                library_edit.empty_bin(sources.library())
                st.rerun()


def _line(one: Binned) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        what = "evaluation " if one.place else ""
        messages.say(f"{what}{one.name}, deleted {time.strftime('%Y-%m-%d %H:%M', time.localtime(one.when))}")
        if st.button("Restore", key=f"restore-{one.folder.name}", type="tertiary"):
            with messages.guarded("It could not be restored"):
                library_edit.restore(sources.library(), one)
                st.rerun()
