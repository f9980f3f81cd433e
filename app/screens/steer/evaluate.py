"""Evaluate: a profile over a prompt set, its controls drawn beside the effect, and the dose curve.

The work is a job of the server that holds the model. It is saved with the library from its first moment
(`steering/evaluations.py`), so this tab starts evaluations and opens them; the address names the one that is open.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from ....store import Trace
from ....store.library import fingerprint
from ....tracer.client import Client, ServerError, as_profile, rows_of
from ....tracer.evaluate import saved as files
from ....tracer.evaluate.saved import SavedEvaluation
from ...shell import evaluation_line, messages, sources
from ...shell.page_context import asked, remember
from ...steering import evaluations
from ...text import words
from . import evaluation_result, evaluation_settings
from .evaluation_settings import Settings

OPEN = "evaluation"
"""Parameter of the address, and in the session: id of the evaluation that is open."""

_AGAIN = "The same profile, prompts and controls on the model that runs now."
_NO_MODEL = "It can be run again as soon as the model above runs."


def evaluate_tab(
    profile: Any,
    model_source: str,
    client: Client | None,
    *,
    starting: bool = False,
    trace: Trace | None = None,
    name: str = "",
) -> None:
    """Draw the tab.

    Args:
        profile: a `Steering`, or its JSON as a mapping.
        model_source: the served model, as the user knows it.
        client: None where no model answers yet; `starting` where one is being loaded.
        trace: the open trace, whose prompts are offered first; `name` is what it is called here.
    """
    made = as_profile(profile) or {}
    library = sources.library()
    known = files.list_evaluations(library)
    opened = _choose(known)
    with st.expander("New evaluation", expanded=opened is None, key=f"evaluate-new-{opened is None}"):
        _new(made, model_source, client, known, trace, name, starting=starting)
    if opened is not None:
        _draw(opened, made, client, known)


def _choose(known: list[SavedEvaluation]) -> SavedEvaluation | None:
    """The evaluation that the address or the reader chose; a link to one that isn't here says so."""
    wanted = asked(OPEN)
    if wanted is not None:
        st.session_state[OPEN] = wanted
    ids = [saved.id for saved in known]
    now = st.session_state.get(OPEN)
    if now is not None and now not in ids:
        remember(OPEN, None)
        st.session_state[OPEN] = None
        messages.card(
            f"The link shows the evaluation “{now}”, which is not in this library",
            "Nothing else is shown in its place.",
            todo="Open the library that it was made in, or look for it in the bin of the Library.",
            kind="error",
        )
        now = None
    if known:
        names = {saved.id: _label(saved) for saved in known}
        st.session_state["evaluation-open"] = now
        st.selectbox(
            "Saved evaluation", ids, index=None, key="evaluation-open", placeholder="none: a new one",
            format_func=lambda id: str(names.get(id, id)), on_change=_opened, width=560,
        )  # fmt: skip
    remember(OPEN, now)
    return next((saved for saved in known if saved.id == now), None)


def _opened() -> None:
    show(st.session_state.get("evaluation-open"))


def show(id: str | None) -> None:
    """Open an evaluation on this tab, None for none; the address follows."""
    st.session_state[OPEN] = id
    remember(OPEN, id)


def _label(saved: SavedEvaluation) -> str:
    return f"{saved.name} · {evaluation_line.when(saved)} · {saved.status().state}"


def _new(
    made: dict[str, Any],
    model: str,
    client: Client | None,
    known: list[SavedEvaluation],
    trace: Trace | None,
    trace_name: str,
    *,
    starting: bool,
) -> None:
    settings = evaluation_settings.draw(made, trace, trace_name)
    if client is None:
        messages.empty(
            "The model is being loaded" if starting else "No model to evaluate with",
            "An evaluation runs the profile and its controls over a prompt set, in the process that holds the model.",
            todo="It can be started as soon as the model answers." if starting else "Start the model above.",
        )
    elif not made.get("rules"):
        messages.empty(
            "Nothing is steered yet",
            "This would show what the profile does to each language or group, beside random experts, other layers "
            "and the opposite sign.",
            todo="Switch an expert off on the switchboard, or load a profile.",
        )
    elif settings is not None:
        _offer(made, model, client, known, settings, trace, trace_name)


def _offer(
    made: dict[str, Any],
    model: str,
    client: Client,
    known: list[SavedEvaluation],
    settings: Settings,
    trace: Trace | None,
    trace_name: str,
) -> None:
    prompts = words.amount(len(settings.prompts), "prompt")
    asked_for = {
        "name": f"{made.get('name') or 'unnamed profile'} on {settings.prompts.name}", "model": model,
        "profile": made, "prompt_set": settings.prompts.name, "prompts": settings.prompts,
        "by": settings.by, "target": settings.target, "classes": settings.classes,
        "variants": settings.variants, "options": settings.request(made),
        "trace": {"name": trace_name, "fingerprint": fingerprint(trace)} if trace is not None else None,
    }  # fmt: skip
    before = evaluation_line.beforehand(
        known, model, rows_of(settings.prompts), settings.variants, answers=settings.new_tokens > 0
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button("Evaluate", type="primary", key="evaluate-start")
        messages.say(f"{prompts}, each under {settings.variants} steerings and unsteered. {before}")
    if pressed:
        _start(client, asked_for)


def _start(client: Client, asked_for: dict[str, Any]) -> None:
    try:
        saved = evaluations.start(sources.library(), client, asked_for)
    except (ServerError, OSError) as error:
        messages.card("The evaluation could not be started", str(error), kind="error",
                    todo="Nothing was run. Correct the field named above and start again.")  # fmt: skip
        return
    show(saved.id)
    st.rerun()


def _draw(
    saved: SavedEvaluation, made: dict[str, Any], client: Client | None, known: list[SavedEvaluation]
) -> None:
    """The open evaluation: how far it is, or what came out."""
    status = saved.status()
    with st.container(horizontal=True, vertical_alignment="center", key="evaluation-head"):
        st.subheader(words.label(saved.name), anchor=False)
        if status.ended:
            st.button("Run again", key="evaluation-again", type="tertiary", disabled=client is None,
                      on_click=_again, args=(saved, client), help=_AGAIN if client else _NO_MODEL)  # fmt: skip
        st.button("Delete", key="evaluation-delete", type="tertiary", on_click=_delete, args=(saved,),
                  help="Moves it to the bin of the Library.")  # fmt: skip
    if not status.ended:
        evaluation_line.follow(saved)
        return
    if status.state == "complete":
        with messages.guarded("The evaluation could not be read"):
            evaluation_result.draw(saved, made, [one for one in known if one.id != saved.id])
        return
    if status.state == "cancelled":
        messages.say("Cancelled before its end; an evaluation keeps nothing until it is complete.")
        return
    lost = status.state == "lost"
    messages.card(
        "The evaluation was lost" if lost else "The evaluation failed",
        words.sentence(status.error or "no reason was given"), kind="error",
        todo=f"What it asked for is kept. {'Press Run again.' if client else _NO_MODEL}",
    )  # fmt: skip


def _again(saved: SavedEvaluation, client: Client | None) -> None:
    if client is None:
        return
    try:
        show(evaluations.again(sources.library(), client, saved).id)
    except (ServerError, OSError) as error:
        st.toast(words.label(f"It could not be started: {error}"), icon=":material/error:")


def _delete(saved: SavedEvaluation) -> None:
    with messages.guarded("It could not be deleted"):
        evaluations.delete(sources.library(), saved)
        show(None)
