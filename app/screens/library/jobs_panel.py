"""Running and ended trace jobs, and running evaluations, a line each, as they stand on top of the Library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from ....sample_data.gallery import ORDER, card
from ....tracer.jobs.jobs import Job, Status, list_jobs
from ...shell import evaluation_line, messages, sources, travel
from ...text import words
from . import evaluations_table, gallery

TICK_SECONDS = 1.0
_PRESSED = "job button"
"""In the session: a button of a line was pressed since the page was last drawn."""
_STATES = {"starting": "starting", "loading": "loading the model", "running": "tracing",
           "measuring": "measuring the noise floor", "building": "building, training, tracing"}  # fmt: skip
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
    if (
        _answered()
        or travel.waiting()
        or (was_running and not evaluating and all(status.ended for _, status in now))
    ):
        st.rerun()
    with st.container(key="jobs"):
        for saved in evaluating:
            evaluation_line.line(saved, saved.status(), name=saved.name)
        for job, status in now:
            _line(job, status, "")


def draw_one(job: Job, *, place: str) -> None:
    """The line of one job once more, where it was started; `place` keeps its buttons apart from the others."""
    status = job.status()
    st.fragment(_one, run_every=None if status.ended else TICK_SECONDS)(job, place, not status.ended)


def _one(job: Job, place: str, was_running: bool) -> None:
    if _answered() or not job.folder.exists():
        st.rerun()
    status = job.status()
    if travel.waiting() or (was_running and status.ended):
        st.rerun()
    _line(job, status, place)


def _do(action: Callable[[], None]) -> None:
    """What a button of a line does. The job's other line must show it too."""
    st.session_state[_PRESSED] = True
    action()


def _answered() -> bool:
    return bool(st.session_state.pop(_PRESSED, False))


def _line(job: Job, status: Status, place: str) -> None:
    draw_state = _ended if status.ended else _asking if status.state == "asking" else _running
    draw_state(job, status, f"{place}{job.out.name}")


def _running(job: Job, status: Status, key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"job-{key}"):
        told = f"{job.out.name}: {progress_words(status)}{_size(job, status)}"
        st.progress(min(status.share, 1.0), text=words.label(told))
        st.button("Cancel", key=f"cancel-{key}", on_click=_do, args=(job.cancel,))


def _asking(job: Job, status: Status, key: str) -> None:
    """What the trace will cost, and the two answers."""
    with st.container(horizontal=True, vertical_alignment="center", key=f"job-{key}"):
        messages.note("plain", asking_words(job.out.name, status))
        st.button("Go on", type="primary", key=f"go-on-{key}", on_click=_do, args=(job.go_on,))
        st.button("Stop", key=f"decline-{key}", on_click=_do, args=(partial(job.cancel, wait=10.0),))


def asking_words(name: str, status: Status) -> str:
    """`big: 400 prompts would take about 3 min 20 s more and 12 MB, judged by the first 16. Go on?`"""
    judged = f"the first {words.count(status.prompts)}" if status.prompts else "its first steps"
    return (
        f"{name}: {words.amount(status.total_prompts, 'prompt')} would take about {words.duration(status.eta_s or 0)} "
        f"more and {words.size(status.bytes)} of disk, judged by {judged}. Go on?"
    )


def _size(job: Job, status: Status) -> str:
    """How large the trace will be, by its parts so far; empty before the first."""
    size, summary = status.bytes, sources.summaries().get(job.out.name)
    if summary is not None and summary.prompts and status.total_prompts:
        size = summary.bytes / summary.prompts * max(status.total_prompts, summary.prompts)
    return f", about {words.size(size)} in the end" if size else ""


def progress_words(status: Status) -> str:
    """How far a job is: `tracing, 120 of 400 prompts, 2,300 tokens/s, 40 s left`."""
    if status.state == "splitting":
        return f"{_SPLITTING}, {words.count(status.layers)} of {words.amount(status.total_layers, 'layer')}"
    parts = [_STATES.get(status.state, status.state)]
    if status.total_prompts:
        parts.append(f"{words.count(status.prompts)} of {words.amount(status.total_prompts, 'prompt')}")
    if status.generating and status.step:
        answers = words.amount(status.generating, "answer")
        parts.append(f"token {status.step} of at most {status.steps} of the next {answers}")
    elif status.tokens_per_s and not status.steps:
        parts.append(f"{words.count(status.tokens_per_s)} tokens/s")
    if status.eta_s is not None and status.share < 1:
        parts.append(words.left(status.eta_s))
    return ", ".join(parts)


def _ended(job: Job, status: Status, key: str) -> None:
    """One line: what came of it, its log, and what can be done."""
    name = job.out.name
    with st.container(horizontal=True, vertical_alignment="center", key=f"job-{key}"):
        if status.state in ("complete", "cancelled", "declined"):
            messages.say(ended_words(job, status))
        else:
            messages.note("error", ended_words(job, status))
        if status.log_tail and status.state not in ("complete", "declined"):
            with st.popover("Log", type="tertiary", key=f"log-{key}"):
                st.code(status.log_tail, language=None, wrap_lines=True)
        if status.state != "failed" and name in sources.summaries():
            page, params = _opens(job)
            st.button("Open", type="primary", key=f"open-{key}", on_click=travel.to, args=(page,),
                      kwargs={"trace": name, **params})  # fmt: skip
        if status.state != "complete":
            resumable = name in sources.summaries()
            st.button("Resume" if resumable else "Try again", key=f"retry-{key}", on_click=_do,
                      args=(partial(messages.retry_job, job),), help="With the same settings.")  # fmt: skip
        st.button("Dismiss", key=f"dismiss-{key}", on_click=_do, args=(job.forget,))


def _opens(job: Job) -> tuple[str, dict[str, object]]:
    """Where what a job made is best seen."""
    example = job.asked.get("example")
    return gallery.address(card(example)) if example in ORDER else ("heatmap", {})


def ended_words(job: Job, status: Status) -> str:
    """What came of a job, in one line."""
    name = job.out.name
    written = (job.out / "trace.json").exists()
    if status.state == "cancelled":
        kept = f"What was traced by then is kept ({words.amount(status.prompts, 'prompt')})."
        return f"{name}: cancelled. {kept if written else 'Nothing was written.'}"
    if status.state == "declined":
        return f"{name}: stopped when its cost was known. Nothing was kept."
    if status.state != "complete":
        why = (status.error or "no reason was given").rstrip(".")
        if "example" in job.asked:
            return f"{name}: the example could not be made: {why}."
        kept = "What was committed before stays readable." if written else "Nothing was written."
        return f"{name}: tracing failed: {why}. {kept}"
    summary = status.summary
    parts = [words.amount(summary.get("prompts", status.prompts), "prompt")]
    if tokens := summary.get("tokens", status.tokens):
        parts.append(words.amount(tokens, "token"))
    if seconds := summary.get("seconds"):
        parts.append(f"in {words.duration(seconds)}")
    return f"{name} is traced: {', '.join(parts)}."
