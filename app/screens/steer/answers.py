"""The right half of the Steer page: both answers as they come, and beneath them where the models differ."""

from __future__ import annotations

import html
import time
from typing import Any

import streamlit as st

from ....tracer.client import ServerError
from ....tracer.steering.check import effective, problems_with
from ...figures.steer import steering_strip
from ...sentences import answers as sentences_steering
from ...shell import messages as states
from ...shell import show
from ...shell.page_context import PageContext
from ...steering.answers import SIDES, Answers, Side
from ...steering.history import Draft
from ...steering.rule_words import answer_html, differing
from ...steering.servers import Live
from . import prompt as steer_prompt
from . import state
from .server import Served

CANDIDATES = 8
REFRESH_S = 0.06
"""Seconds between two pictures of a growing answer; the first token is shown at once."""
_RESULT = "steer result"


@st.fragment
def draw(context: PageContext, served: Served) -> None:
    """Draw the half."""
    with states.guarded("The prompt could not be drawn"):
        steer_prompt.draw(context, has_chat=served.has_chat, limits=served.about.get("limits", {}))
    _answers(context, served)


@st.fragment
def _answers(context: PageContext, served: Served) -> None:
    """The button and what it brings: alone, so that nothing else is sent again before the first token."""
    with states.guarded("The answers could not be drawn"):
        _ask_and_show(context, served)


def _ask_and_show(context: PageContext, served: Served) -> None:
    request = steer_prompt.request()
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        pressed = st.button(
            "Generate", type="primary", icon=":material/play_arrow:", key="steer-go",
            disabled=served.client is None or not request.prompt.strip(), shortcut="Ctrl+Enter",
        )  # fmt: skip
        st.button(
            "Stop", type="tertiary", icon=":material/stop:", key="steer-halt", disabled=served.client is None
        )
        st.toggle("again at every change", key="steer-live",
                  help="Answer again whenever the steering changes.")  # fmt: skip
    pressed = st.session_state.pop("steer run", False) or pressed
    place = st.empty()
    if pressed and served.client is not None:
        if problems := problems_with(state.draft().rules, served.routers):
            states.card("Nothing was generated", problems[0], kind="error",
                        todo="The steering does not fit this model. Undo, or remove the rule it names.")  # fmt: skip
        else:
            _generate(place, served, request)
    answers: Answers | None = st.session_state.get(_RESULT)
    if answers is None:
        _nothing_yet(place, served)
        return
    _show(place, answers)
    _beneath(context, served, answers)


def _nothing_yet(place: Any, served: Served) -> None:
    with place.container():
        if served.client is None:
            states.empty("No answers yet", "Both answers stand here, side by side, once the model runs.")
        else:
            states.empty(
                "No answers yet", "The model continues the prompt twice: as it is, and under your steering.",
                todo="Click cells of the switchboard, then press Generate.",
            )  # fmt: skip


def _generate(place: Any, served: Served, request: steer_prompt.Request) -> None:
    """Stream both answers. An interruption keeps what has come so far."""
    draft = state.draft()
    answers = st.session_state[_RESULT] = Answers(request.prompt, draft)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": request.prompt}]} if request.chat else {
        "prompt": request.prompt
    }  # fmt: skip
    began = shown = time.monotonic()
    st.session_state["steer failed"] = None
    assert served.client is not None
    try:
        with served.client.generate(
            **asked,
            steering=draft.to_json(),
            compare=True,
            candidates=CANDIDATES,
            positions=True,
            **request.sampling,
        ) as events:
            for event in events:
                answers.add(event)
                now = time.monotonic()
                if answers.first_s is None:
                    answers.first_s = now - began
                    shown = 0.0
                if now - shown >= REFRESH_S:
                    _show(place, answers)
                    shown = now
    except ServerError as error:
        st.session_state["steer failed"] = str(error)
        if served.live is not None and _died(served.live):
            st.rerun()
    finally:
        answers.seconds = time.monotonic() - began


def _died(live: Live) -> bool:
    """Whether a process has ended; its connection breaks a moment before."""
    until = time.monotonic() + 0.5
    while live.state != "crashed" and time.monotonic() < until:
        time.sleep(0.05)
    return live.state == "crashed"


def _show(place: Any, answers: Answers) -> None:
    """Both answers in one piece of HTML, replaced as they grow."""
    pieces = differing(answers.text("base"), answers.text("steered"), growing=answers.done is None)
    name = f"steered · {answers.draft.name or 'your rules'}" if answers.draft.rules else "steered by no rule"
    heads = {"base": "as it is", "steered": name}
    columns = "".join(
        f'<section class="ms-side ms-{side}"><h5>{html.escape(heads[side])}</h5>'
        f"{answer_html(own, end='' if answers.seconds or answers.ended(side) else 'ms-caret')}</section>"
        for side, own in zip(SIDES, pieces, strict=True)
    )
    place.html(f'<div class="ms-answers">{columns}</div>')


def neutral(draft: Draft, served: Served, context: PageContext) -> bool:
    """Whether no rule of a steering has any effect on the model."""
    routers = served.routers or context.trace.routers
    return not any(effective(draft.rules, spec) for spec in routers)


def _beneath(context: PageContext, served: Served, answers: Answers) -> None:
    if failed := st.session_state.get("steer failed"):
        states.card(
            "The answer was interrupted",
            failed,
            kind="error",
            todo="What has come so far is kept. "
            + (
                "Press Generate to ask again."
                if served.client is not None
                else "Once the model is back, ask again."
            ),
        )
    elif answers.done is None:
        states.note("partial", "Stopped. This is as far as the answers came.")
    if not any(answers.events[side] for side in SIDES):
        return
    if answers.draft != state.draft():
        states.note("partial", "The steering has changed since; these answers belong to the earlier one.")
    states.say(sentences_steering.outcome(answers, neutral=neutral(answers.draft, served, context)))
    if answers.untouched:
        return
    side: Side = st.segmented_control(
        "Token by token, along", list(SIDES), default="steered", key="steer-along", required=True,
        format_func={"base": "the base answer", "steered": "the steered answer"}.__getitem__,
    ) or "steered"  # fmt: skip
    strip, grid = answers.strip(side), answers.grid(side, served.routers or list(context.trace.routers))
    if not strip.num_rows:
        return
    points = show.chart(
        lambda theme: steering_strip(strip, grid, theme=theme), grid, name=f"steering-{side}",
        key=f"steer-strip-{side}-{id(answers)}", select="token",
        title="Where the steered model differs, token by token",
        say=sentences_steering.strip(answers, side), python=_snippet(answers),
    )  # fmt: skip
    _candidates(answers, side, int(points[-1]["column"]) if points else None)


def _candidates(answers: Answers, side: Side, column: int | None) -> None:
    """The next-token candidates of both models at one token."""
    rows = answers.along(side)
    if column is None or column >= len(rows):
        column = max(range(len(rows)), key=lambda at: rows[at]["kl"] or 0.0)
        which = "where they differ most"
    else:
        which = "chosen in the strip"
    place = sentences_steering.place(rows[column])
    before = html.escape(answers.before(side, column)[-40:])
    st.html(f'<p class="ms-candidates">Candidates for {place}, {which}, after <bdi>“…{before}”</bdi></p>')
    bar = {"min_value": 0.0, "max_value": 1.0, "format": "percent"}
    show.table(
        answers.candidates(side, column), name=f"candidates-{side}-{place.replace(' ', '-')}",
        key=f"steer-candidates-{side}", height=320,
        columns={
            "token_id": None, "token": st.column_config.TextColumn("token"),
            "base": st.column_config.ProgressColumn("base", **bar),
            "steered": st.column_config.ProgressColumn("steered", **bar),
        },
    )  # fmt: skip


def _snippet(answers: Answers) -> str:
    return (
        "from moescope.tracer.client import connect\n\n"
        "client = connect(URL, token_file=TOKEN_FILE)  # as moescope serve printed them\n"
        f"profile = {answers.draft.to_json()!r}\n"
        f"events = list(client.generate({answers.prompt!r}, steering=profile, compare=True, positions=True, "
        f"candidates={CANDIDATES}))"
    )
