"""Try a text: a sentence that is typed runs through the live model, and its routing stands beside the trace's."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from ...store import RouterSpec
from ...tracer.client import Client, ServerError
from ..shell import messages
from ..shell.page_context import PageContext
from ..steering import servers
from ..steering.try_text import routing_of
from ..text import words
from .steer import server as steer_server

KEY = "tried text"
LONGEST = 4000


def draw(context: PageContext) -> pa.Table | None:
    """Draw the box; the routing of the text that was tried last, in the columns of `prompt-tokens`, or None."""
    with st.expander("Try a text", icon=":material/edit:", key="try-text"):
        served = steer_server.in_precision(context, None)
        with st.form("try-form", border=False):
            text = st.text_area("Text", key="try-typed", height=80, max_chars=LONGEST,
                                placeholder="Any sentence: its tokens and their experts appear below.")  # fmt: skip
            pressed = st.form_submit_button("Run", type="primary", disabled=served.client is None)
        if served.client is None:
            _start(served)
        elif pressed and (text or "").strip():
            _run(context, served.client, served.routers, text or "")
        found = st.session_state.get(KEY)
        if found is None or found["url"] != context.url:
            return None
        with st.container(horizontal=True, vertical_alignment="center"):
            through = f"{words.amount(found['tokens'], 'token')} through {servers.short(found['model'])}."
            messages.say(f"{through}{found['note']}")
            st.button("Clear", type="tertiary", key="try-clear", on_click=_clear)
    return context.in_window(found["table"]) if found["stream"] == context.stream else None


def _run(context: PageContext, client: Client, routers: list[RouterSpec], text: str) -> None:
    """Run the text and keep its routing; says beside the button why it could not."""
    st.session_state.pop(KEY, None)
    if _sizes(routers) != _sizes(list(context.trace.routers)):
        messages.note(
            "error", "The model that answers has other routers than the traced one: nothing was compared."
        )
        return
    try:
        table, note = routing_of(client, text, routers, context.stream)
    except ServerError as error:
        messages.note("error", f"The text could not be run: {error}")
        return
    tokens = len(set(table["position"].to_pylist()))
    st.session_state[KEY] = {
        "url": context.url, "stream": context.stream, "table": table, "tokens": tokens,
        "model": steer_server.in_precision(context, None).model,
        "note": f" {note[:1].upper()}{note[1:]}." if note else "",
    }  # fmt: skip


def _sizes(routers: list[RouterSpec]) -> set[tuple[str, int, int]]:
    return {(spec.stream, spec.layer, spec.num_experts) for spec in routers}


def _start(served: steer_server.Served) -> None:
    live = served.live
    if live is not None and live.state == "starting":
        st.fragment(_watch, run_every=0.5)(live.source)
        return
    why = f" {live.why}" if live is not None else ""
    messages.say(f"The model of this trace is not running.{why}")
    if served.source is not None and served.source.model:
        st.button("Start the model", key="try-start", on_click=_begin, args=(served.source,))


def _begin(source: servers.Source) -> None:
    servers.start(source)


def _watch(source: servers.Source) -> None:
    live = servers.find(source)
    if live is None or live.state != "starting":
        st.rerun()
    messages.say(f"The model is being loaded: {words.duration(live.seconds)} so far.")


def _clear() -> None:
    st.session_state.pop(KEY, None)
