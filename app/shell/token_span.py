"""Which tokens of a prompt a page counts: a span, and template tokens in or out. Shown, and kept in the URL."""

from __future__ import annotations

from typing import Any

import streamlit as st

from . import link_check
from .page_context import TOKEN_KINDS, PageContext

BAR = "bar"
SPANS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt": ("the prompt", {"phase": "prefill", "completion": None}),
    "last": ("its last n tokens", {"phase": None, "completion": None}),
    "generated": ("what was generated", {"phase": "decode", "completion": None}),
    "completion": ("the completion", {"phase": None, "completion": True}),
}
"""Name in the URL → its label, and the parameters of views that choose it."""
MOST_LAST = 10_000
_DEFAULT = "span default"


def choose(context: PageContext, *, last: bool = False, default: str = BAR) -> dict[str, Any]:
    """Draw the two controls (three with `last`) in the current container.

    Args:
        default: the span that is chosen until the reader or a link chooses one.
    Returns:
        The parameters of views that the page sets; what it leaves to the bar is not among them.
    """
    names = [BAR, *(name for name in SPANS if last or name != "last")]
    _follow(default)
    span = link_check.selectbox(
        "Tokens", names, index=names.index(default), key="span", what="the tokens", width=210,
        format_func=lambda name: _label(context, name),
    )  # fmt: skip
    link_check.tell("span")
    params: dict[str, Any] = {} if span == BAR else dict(SPANS[span][1])
    if span == "last":
        params["last"] = int(
            st.number_input("n", 1, MOST_LAST, 5, key="last", bind="query-params", width=110)
        )
    counted = TOKEN_KINDS[context.tokens].get("special", True)
    special = st.toggle(
        "count special and template tokens", value=True, key="special", bind="query-params",
        disabled=not counted, help=_HELP,
    )  # fmt: skip
    if not (special and counted):
        params["special"] = False
    return params


def _follow(default: str) -> None:
    """Let a new default act: what was chosen under another one answered another question."""
    before = st.session_state.get(_DEFAULT)
    if before is not None and before != default:
        st.session_state["span"] = default
    st.session_state[_DEFAULT] = default


_HELP = (
    "Special and template tokens are routed much alike whatever the text says. The papers keep them in. "
    "The state of this switch is in the address, under every figure, and in exported tables."
)


def _label(context: PageContext, name: str) -> str:
    if name != BAR:
        return SPANS[name][0]
    return {"all": "all tokens", "text only": "all but template tokens"}.get(
        context.tokens, f"{context.tokens} (as filtered)"
    )
