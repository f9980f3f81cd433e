"""How long an evaluation will take and how far it is, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ...tracer.evaluate.saved import EvaluationStatus, SavedEvaluation, seconds_per_unit, work_of
from ..text import words
from . import messages, travel

TICK_SECONDS = 1.0


def beforehand(
    known: list[SavedEvaluation], model: str, rows: Sequence[Any], variants: int, *, answers: bool
) -> str:
    """What is known of an evaluation's time before it is started: from earlier ones of the same model.

    Args:
        rows: its prompts; `variants` steerings each.
        answers: whether tokens are generated, whose time is not known.
    """
    per_unit = seconds_per_unit(known, model)
    if per_unit is None:
        return "How long that takes is known after the first passes."
    more = ", and the time of the answers" if answers else ""
    seconds = words.duration(per_unit * work_of(rows, variants))
    return f"About {seconds}, by the pace of earlier evaluations of this model{more}."


def told(status: EvaluationStatus) -> str:
    """How far it is: `120 of 2,300 steps, about 40 s left`."""
    if status.state == "waiting":
        return "waiting for the model"
    if not status.total:
        return "reading the prompts"
    parts = [f"{words.count(status.done)} of {words.amount(status.total, 'step')}"]
    if status.left_s is None:
        parts.append("estimating the time left")
    elif status.answers_to_come:
        parts.append(f"{_left(status.left_s)}, then the answers, whose time is not known yet")
    else:
        parts.append(_left(status.left_s))
    return ", ".join(parts)


def _left(seconds: float) -> str:
    return f"{'about ' if seconds >= 0.5 else ''}{words.left(seconds)}"


def when(saved: SavedEvaluation) -> str:
    """Its day and minute (UTC): `2026-03-01 14:05`."""
    return str(saved.asked["created"])[:16].replace("T", " ")


def follow(saved: SavedEvaluation) -> None:
    """Its progress, refreshed by itself; the page is drawn anew once it has ended."""
    st.fragment(_progress, run_every=TICK_SECONDS)(saved)


def _progress(saved: SavedEvaluation) -> None:
    status = saved.status()
    if status.ended or travel.waiting():
        st.rerun()
    line(saved, status)
    messages.say("It continues while other pages are open, and is kept in the Library.")


def line(saved: SavedEvaluation, status: EvaluationStatus, *, name: str = "") -> None:
    """A bar with how far it is, and the button that stops it."""
    share = min(1.0, status.done / status.total) if status.total else 0.0
    text = f"{name}: {told(status)}" if name else told(status)
    with st.container(horizontal=True, vertical_alignment="center", key=f"evaluation-line-{saved.id}"):
        st.progress(share, text=words.label(text))
        st.button("Cancel", key=f"evaluate-cancel-{saved.id}", on_click=saved.ask_to_cancel)
