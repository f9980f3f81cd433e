"""Running and ended trace jobs, and running evaluations, a line each, as they stand on top of the Library."""

from __future__ import annotations

import streamlit as st

from ....tracer.jobs.jobs import Job, Status, list_jobs
from ...shell import evaluation_line, messages, sources, travel
from ...text import words
from . import evaluations_table

TICK_SECONDS = 1.0
_STATES = {"starting": "starting", "loading": "loading the model", "running": "tracing",
           "building": "building, training, tracing"}  # fmt: skip
_SPLITTING = "splitting the layers into groups of neurons"


def draw() -> None:
    """Draw all jobs of the library; running ones move by themselves."""
    jobs = list_jobs(sources.library())
    evaluating = evaluations_table.running()
    if not jobs and not evaluating:
        return
    running = bool(evaluating) or any(not job.status().ended for job in jobs)
    st.fragment(_panel, run_every=TICK_SECONDS if running else None)(running)


def _panel(was_running: bool) -> None:
    jobs = list_jobs(sources.library())
    now = [(job, job.status()) for job in jobs]
    evaluating = evaluations_table.running()
    if travel.waiting() or (was_running and not evaluating and all(status.ended for _, status in now)):
        st.rerun()
    with st.container(key="jobs"):
        for saved in evaluating:
            evaluation_line.line(saved, saved.status(), name=saved.name)
        for job, status in now:
            (_ended if status.ended else _running)(job, status)


def _running(job: Job, status: Status) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"job-{job.out.name}"):
        st.progress(min(status.share, 1.0), text=words.label(f"{job.out.name}: {progress_words(status)}"))
        st.button("Cancel", key=f"cancel-{job.out.name}", on_click=job.cancel)


def progress_words(status: Status) -> str:
    """How far a job is: `tracing, 120 of 400 prompts, 2,300 tokens/s, 40 s left`."""
    if status.state == "splitting":
        return f"{_SPLITTING}, {words.count(status.layers)} of {words.amount(status.total_layers, 'layer')}"
    parts = [_STATES.get(status.state, status.state)]
    if status.total_prompts:
        parts.append(f"{words.count(status.prompts)} of {words.amount(status.total_prompts, 'prompt')}")
    if status.tokens_per_s:
        parts.append(f"{words.count(status.tokens_per_s)} tokens/s")
    if status.eta_s is not None and status.share < 1:
        parts.append(f"{words.duration(status.eta_s)} left")
    return ", ".join(parts)


def _ended(job: Job, status: Status) -> None:
    name = job.out.name
    with st.container(border=True, key=f"job-{name}"):
        if status.state == "complete":
            _complete(job, status)
        elif status.state == "cancelled":
            kept = words.amount(status.prompts, "prompt")
            messages.say(f"{name}: cancelled. What was traced by then is kept ({kept}).")
        else:
            meaning = "No trace was finished; what was committed before stays readable."
            messages.card(
                f"{name}: tracing failed", status.error or "no reason was given", todo=meaning, kind="error"
            )
        if status.log_tail and status.state != "complete":
            with st.expander("Log"):
                st.code(status.log_tail, language=None, wrap_lines=True)
        with st.container(horizontal=True):
            if status.state != "failed" and name in sources.summaries():
                st.button(
                    "Open",
                    type="primary",
                    key=f"open-{name}",
                    on_click=travel.to,
                    args=("heatmap",),
                    kwargs={"trace": name},
                )
            if status.state != "complete":
                resumable = name in sources.summaries()
                st.button("Resume" if resumable else "Try again", key=f"retry-{name}", on_click=messages.retry_job,
                          args=(job,), help="With the same model, prompts and settings.")  # fmt: skip
            st.button("Dismiss", key=f"dismiss-{name}", on_click=job.forget)


def _complete(job: Job, status: Status) -> None:
    summary = status.summary
    parts = [words.amount(summary.get("prompts", status.prompts), "prompt")]
    if tokens := summary.get("tokens", status.tokens):
        parts.append(words.amount(tokens, "token"))
    if seconds := summary.get("seconds"):
        parts.append(f"in {words.duration(seconds)}")
    messages.say(f"{job.out.name} is traced: {', '.join(parts)}.")
