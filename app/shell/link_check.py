"""What a link asks for and the trace does not have.

Streamlit drops a bound parameter whose value its widget does not offer, without a word: the page would then show
something else than the link names. So a page looks at the address before it draws the widget (`look`), and says
what was dropped (`tell`) until the reader chooses something there (`forget`) or leaves. `selectbox` does the first
and the last for a box that is bound to the address.

In the run that follows a choice the address still holds what was there before it, which no link asked for:
`forget` therefore also keeps `look` from reading the parameters it names until that run has ended (`settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import streamlit as st

from ..text import words
from . import address, messages

_KEY = "asked in vain"
_CHOSEN = "chosen in this run"
_LEFT_OUT = "left out of links"
MOST_NAMED = 8
SECOND = "vs"
"""The parameter that names a second trace: no part of the first."""


def selectbox(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    what: str = "",
    known: Collection[str] | None = None,
    forgets: Sequence[str] = (),
    format_func: Callable[[str], str] = str,
    **more: Any,
) -> Any:
    """A `st.selectbox` bound to the parameter `key` of the address, which may name an option or what is shown of it.

    Args:
        what: how the page calls the parameter.
        known: the options that a link may name; `options` where None.
        forgets: parameters of the address that a choice here makes irrelevant.
        more: further arguments of `st.selectbox`.
    """
    known = options if known is None else known
    look(key, [*known, *map(format_func, known)], what=what)
    asked = st.query_params.get(key)
    # Streamlit knows an option in the address only by what is shown of it, and takes any other out.
    by_itself = key not in st.session_state and asked in options and format_func(str(asked)) != asked
    if by_itself:
        st.session_state[key] = asked
    at = more.get("index", 0)
    first = None if at is None else options[at]
    # A choice that is not offered any more would stay in the address, and in the browser's box even where it is
    # deleted here; one that a link makes is no state yet.
    if st.session_state.get(key) not in [None, *options]:
        st.session_state[key] = first
    chosen = st.selectbox(
        label, options, key=key, bind="query-params", format_func=format_func, on_change=forget,
        args=(key, *forgets), **more,
    )  # fmt: skip
    # Where the default has changed since the box was first drawn, Streamlit leaves a choice out of the address.
    if by_itself or (chosen not in (None, first) and key not in st.query_params):
        address.write(key, format_func(chosen))
    return chosen


def look(name: str, known: Collection[object], *, what: str = "") -> None:
    """Remember the values of a parameter of the address that are not among the known ones.

    Args:
        what: how the page calls the parameter.
    """
    if {name, ""} & st.session_state.get(_CHOSEN, set()):
        return
    vain: dict[str, str] = st.session_state.setdefault(_KEY, {})
    there = {str(value) for value in known}
    missing = [value for value in st.query_params.get_all(name) if value not in there]
    if missing:
        vain[name] = f"{what or name} {words.listing([f'“{value}”' for value in missing], most=MOST_NAMED)}"


def forget(*names: str) -> None:
    """The reader has chosen, for all parameters where none is named; for a widget's `on_change`."""
    vain = st.session_state.get(_KEY, {})
    for name in names or list(vain):
        vain.pop(name, None)
    st.session_state.setdefault(_CHOSEN, set()).update(names or [""])


def leave() -> None:
    """Another page: what the link asked of the last one is of no account any more."""
    st.session_state.pop(_KEY, None)


def begin() -> None:
    """A run begins: nothing is known yet that a link to the page would lack."""
    st.session_state[_LEFT_OUT] = []


def leave_out(what: str) -> None:
    """Remember what the page shows and its address can't hold, such as an uploaded table."""
    known: list[str] = st.session_state.setdefault(_LEFT_OUT, [])
    if what not in known:
        known.append(what)


def left_out() -> list[str]:
    """What a link to the page does not carry."""
    return st.session_state.get(_LEFT_OUT, [])


def settle() -> None:
    """The run has ended: from now on what stands in the address was chosen or asked for."""
    st.session_state.pop(_CHOSEN, None)


def tell(*names: str) -> None:
    """Say what the link named in vain for these parameters; `tag.` stands for all that begin so."""
    vain = st.session_state.get(_KEY, {})
    told = [name for name in vain if name in names or ("tag." in names and name.startswith("tag."))]
    for where, found in (
        ("is not in this library", [vain[name] for name in told if name == SECOND]),
        ("this trace does not have", [vain[name] for name in told if name != SECOND]),
    ):
        if found:
            messages.note("error", f"The link names {words.listing(found, most=MOST_NAMED)}, which {where}.")
