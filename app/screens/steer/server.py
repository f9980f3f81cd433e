"""Which model answers: a process of this app, or a server that runs already. Starting, dead, and back again."""

from __future__ import annotations

import html
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import streamlit as st

from ....store import RouterSpec
from ....tracer.client import Client, ServerError
from ....tracer.routers.declaration import SYNTAX
from ...shell import messages
from ...shell.page_context import PageContext
from ...steering import servers
from ...steering.servers import short
from ...text import words


@dataclass(frozen=True, kw_only=True)
class Served:
    """The model that answers, as far as it does."""

    model: str
    client: Client | None = None
    """None until it answers."""
    about: dict[str, Any] = field(default_factory=dict)
    """What /v1/model says."""
    source: servers.Source | None = None
    """What a process of this app is started with."""
    live: servers.Live | None = None
    """The process, where it is one of this app."""
    why: str = ""
    """Why an attached server does not answer."""
    attached: bool = False

    @property
    def routers(self) -> list[RouterSpec]:
        return [RouterSpec.from_json(spec) for spec in self.about.get("routers", [])]

    @property
    def has_chat(self) -> bool:
        return bool(self.about.get("chat_template"))


def choose(context: PageContext) -> Served:
    """The line that names the model and its state, with the choice of another behind it."""
    served = _attached() or _own(_source(context))
    _status(served)
    with st.popover("Model", icon=":material/memory:", type="tertiary", key="steer-model"):
        _menu(context, served)
    return served


def in_precision(context: PageContext, dtype: str | None) -> Served:
    """The model that Steer asks for this trace where it answers in that precision, else a process of its own that does,
    as far as it runs; starts nothing."""
    source = _source(context)
    served = _attached() or _own(source, by_itself=False)
    if served.attached or dtype is None or served.about.get("dtype") == dtype:
        return served
    return _own(replace(source, dtype=dtype), by_itself=False)


def _source(context: PageContext) -> servers.Source:
    return st.session_state.get(f"steer-source {context.url}") or servers.source_of(context.trace)


def running(context: PageContext) -> Served | None:
    """The model that answers for this trace at this moment; starts nothing."""
    served = _attached() or _own(_source(context), by_itself=False)
    return None if served.client is None else served


def problems(served: Served) -> None:
    """What stands between the reader and an answer: no model, or one that died. One that starts is said in the line
    of `choose`: a card here would push the board away under the reader's hand as it comes and goes."""
    live = served.live
    if served.attached and served.client is None:
        messages.card("The attached server does not answer", served.why, kind="error",
                    todo="Start it again and attach to it anew, or let the app run the model itself.")  # fmt: skip
        with st.container(horizontal=True):
            st.button("Try again", key="steer-again")
            st.button("Run the model here", on_click=_detach, key="steer-detach-card")
    elif live is None and not served.attached:
        _offer(served)
    elif live is not None and live.state == "crashed":
        messages.card("The model process has ended", live.why, kind="error",
                    todo="Your steering and your prompt are kept. Restart it, or choose another model.")  # fmt: skip
        st.button("Restart", icon=":material/restart_alt:", type="primary", key="steer-restart",
                  on_click=_restart, args=(served.source,))  # fmt: skip
        with st.expander("Log"):
            st.code(live.process.log_tail or "no message", language=None, wrap_lines=True)


def _own(source: servers.Source, *, by_itself: bool = True) -> Served:
    model, live = source.model, servers.find(source)
    stopped = st.session_state.get("steer stopped") == source
    if by_itself and live is None and model and model == servers.sample_model() and not stopped:
        # It is small, and someone who opens this page wants it.
        live = servers.start(source)
    if live is None or live.state != "running":
        return Served(model=model, source=source, live=live)
    client = live.client(_me())
    try:
        return Served(model=model, source=source, live=live, client=client, about=_about(client))
    except ServerError as error:
        live.reason = str(error)
        return Served(model=model, source=source, live=live)


def _attached() -> Served | None:
    to = st.session_state.get("steer-attached")
    if not to:
        return None
    url, token_file = to
    try:
        client = servers.attach(url, token_file, _me())
        about = client.model()
    except (ServerError, ValueError) as error:
        return Served(model=url, why=str(error), attached=True)
    name = str(about["model"].get("name") or url)
    return Served(model=name, client=client, about=about, attached=True)


def _about(client: Client) -> dict[str, Any]:
    """The model card, asked for once a process."""
    known = st.session_state.setdefault("steer about", {})
    if client.url not in known:
        known[client.url] = client.model()
    return known[client.url]


def _me() -> str:
    """A name for this session: requests take turns by name."""
    return st.session_state.setdefault("steer client", f"app-{uuid.uuid4().hex[:12]}")


def _status(served: Served) -> None:
    live = served.live
    if served.client is not None:
        about = served.about
        where = f" · {served.client.url}" if served.attached else ""
        _line(served.model, "running", f"{about.get('device', '')} · {about.get('dtype', '')}{where}")
    elif served.attached:
        _line(served.model, "crashed", "does not answer")
    elif live is None:
        _line(served.model, "idle", "not running")
    elif live.state == "starting":
        watch(live.source)
    else:
        _line(served.model, live.state, {"crashed": "ended"}.get(live.state, ""))


def _line(model: str, state: str, text: str) -> None:
    st.html(
        f'<p class="ms-server ms-{state}"><i></i><b>{html.escape(short(model) or "no model")}</b> '
        f"<span>{html.escape(text)}</span></p>",
        width="content",
    )


def _menu(context: PageContext, served: Served) -> None:
    key = f"steer-model-text {context.url}"
    st.text_input(
        "Model: a folder, or a name on the hub", value=served.model if not served.attached else "", key=key
    )
    now = served.source or servers.Source("")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(
            "Emergent experts", 0, 1024, now.experts or 0, key="steer-experts", width=170,
            help="Views the layers of a dense model as so many groups of neurons each. 0: it has routers.",
        )  # fmt: skip
        st.number_input(
            "of which a token uses", 0, 1024, now.used or 0, key="steer-used", width=170, help="0: all."
        )
    st.text_area(
        "Declared routers, one a line", value="\n".join(now.routers), key="steer-routers", placeholder=SYNTAX,
        height=68, help="For a model whose routers are not found by themselves.",
    )  # fmt: skip
    st.toggle(
        "load a checkpoint that lacks weights", value=now.allow_missing, key="steer-missing",
        help="Otherwise such a checkpoint is refused, because the missing weights would be random.",
    )  # fmt: skip
    with st.container(horizontal=True):
        st.button("Start", type="primary", key="steer-start", on_click=_start, args=(context.url, key))
        running = served.live is not None and served.live.state != "crashed"
        st.button("Stop", key="steer-stop", on_click=_stop, args=(served.source,), disabled=not running)
        sample = servers.sample_model()
        if sample and served.model != sample:
            st.button(
                "Sample model", key="steer-sample", on_click=_use, args=(context.url, servers.Source(sample))
            )
    st.divider()
    st.text_input(
        "Or a server that runs already: its url", key="steer-url", placeholder="http://127.0.0.1:8700"
    )
    st.text_input("Its token file, or the token itself", key="steer-token", type="password")
    with st.container(horizontal=True):
        st.button("Attach", key="steer-attach", on_click=_attach)
        st.button("Detach", key="steer-detach", on_click=_detach, disabled=not served.attached)


def _use(url: str, source: servers.Source) -> None:
    _detach()
    st.session_state[f"steer-source {url}"] = source
    if source.model:
        servers.start(source)


def _start(url: str, key: str) -> None:
    state = st.session_state
    experts, used = int(state.get("steer-experts") or 0), int(state.get("steer-used") or 0)
    routers = tuple(line.strip() for line in (state.get("steer-routers") or "").splitlines() if line.strip())
    missing = bool(state.get("steer-missing"))
    model = (state.get(key) or "").strip()
    _use(url, servers.Source(model, experts or None, (experts and used) or None, routers, missing))


def _restart(source: servers.Source) -> None:
    servers.start(source)


def _stop(source: servers.Source) -> None:
    servers.stop(source)
    st.session_state["steer stopped"] = source


def _attach() -> None:
    st.session_state["steer-attached"] = (
        st.session_state.get("steer-url") or "",
        st.session_state.get("steer-token") or "",
    )


def _detach() -> None:
    st.session_state.pop("steer-attached", None)


def _offer(served: Served) -> None:
    model, source = served.model, served.source
    if not model:
        messages.empty("No model to steer", "The trace does not say which model it was made with.",
                     todo="Give the model's folder or name under Model.")  # fmt: skip
        return
    here = Path(model).exists()
    place = (
        "It lies on this machine."
        if here
        else "There is no such folder here, so it is looked up by its name."
    )
    messages.empty("The model is not running", f"The model “{model}” answers once it is loaded. {place}",
                 todo="Start it, or choose another under Model. The switchboard works meanwhile.")  # fmt: skip
    st.button("Start the model", type="primary", key="steer-offer", on_click=_restart, args=(source,))


@st.fragment(run_every=0.4)
def watch(source: servers.Source) -> None:
    """Look again until the process has started or ended."""
    live = servers.find(source)
    if live is None or live.state != "starting":
        st.rerun()
    _line(source.model, "starting", f"is being loaded: {words.duration(live.seconds)} so far")
