"""What a link asks for and the trace does not have.

Streamlit drops a bound parameter whose value its widget does not offer, without a word: the page would then show
something else than the link names. So a page looks at the address before it draws the widget (`look`), and says
what was dropped (`tell`) until the reader chooses something there (`on_change=link_check.forget`) or leaves.
"""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st

from . import states, words

_KEY = "asked in vain"
MOST_NAMED = 8


def look(name: str, known: Collection[object], *, what: str = "") -> None:
    """Remember the values of a parameter of the address that are not among the known ones.

    Args:
        what: how the page calls the parameter.
    """
    vain: dict[str, str] = st.session_state.setdefault(_KEY, {})
    there = {str(value) for value in known}
    missing = [value for value in st.query_params.get_all(name) if value not in there]
    if missing:
        vain[name] = f"{what or name} {words.listing([f'“{value}”' for value in missing], most=MOST_NAMED)}"


def forget(*names: str) -> None:
    """The reader has chosen: what the link asked for is of no account any more."""
    vain = st.session_state.get(_KEY, {})
    for name in names or list(vain):
        vain.pop(name, None)


def tell(*names: str) -> None:
    """Say what the link named in vain for these parameters; `tag.` stands for all that begin so."""
    vain = st.session_state.get(_KEY, {})
    found = [
        text for name, text in vain.items() if name in names or ("tag." in names and name.startswith("tag."))
    ]
    if found:
        states.note(
            "error",
            f"The link names {words.listing(found, most=MOST_NAMED)}, which this trace does not have.",
        )
