"""What a page shows when there is nothing to show: empty, loading, partial, damaged, failed.

Every failure says what happened, what it means and what to do; the log waits behind a fold. A traceback is
never on the screen of its own accord.
"""

from __future__ import annotations

import html
import logging
import re
import shlex
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from ...store import StoreError, errors
from ...store.trace import Trace
from ...tracer.jobs.jobs import SUFFIX, Job
from ..text import words
from ..text.nan_notice import nan_notice
from . import sources

log = logging.getLogger("moescope.app")
_OPTION = re.compile(r"--[\w-]+")
_COMMAND = re.compile("`((?:moescope |--)[^`]+)`")

_MEANINGS: dict[type[BaseException], tuple[str, str]] = {
    errors.NotATrace: (
        "There is no trace at this address.",
        "Check the folder, or open another trace from the Library.",
    ),
    errors.NewerTrace: ("The trace was written by a newer moescope.", "Update moescope, then open it again."),
    errors.DamagedTrace: (
        "The list of the trace's parts can't be read, so none of its parts can be trusted.",
        "Restore trace.json from a copy, or trace the prompts again.",
    ),
    errors.DamagedPart: (
        "A part of the trace was changed or lost on disk.",
        "The other parts stay readable. Restore its files from a copy, or trace the prompts into a new folder.",
    ),
    errors.Unreachable: (
        "The place where the trace lies does not answer, or refuses. Nothing says that the trace is damaged.",
        "Check the connection and your rights there, then reload the page.",
    ),
    errors.UnknownColumn: (
        "The page asked for something that this trace does not record.",
        "Clear the filter, or choose another trace.",
    ),
    errors.QueryRefused: ("The query was stopped.", "Change the query and run it again."),
    StoreError: (
        "The trace could not be read with these settings.",
        "Choose another trace, or clear the filter.",
    ),
    MemoryError: (
        "This machine has too little free memory for the picture.",
        "Narrow the layer window or the filter.",
    ),
}
_OUR_BUG = (
    "This is a fault in moescope, not in your data.",
    "Reload the page. If the error stays, report the log.",
)


def say(text: str) -> None:
    """One literal line of text in the quiet voice that stands under charts."""
    st.html(f'<p class="ms-say">{_literal(text)}</p>')


def _literal(text: str) -> str:
    """Text as it stands, but for commands of our own and their options, which are set as code."""
    return _COMMAND.sub(lambda found: f"<code>{_unbroken(found[1])}</code>", html.escape(text))


def _unbroken(command: str) -> str:
    """A command that a line may end between the words of, not after the hyphens of an option."""
    return _OPTION.sub(r"<span>\g<0></span>", command)


def cards(found: Iterable[tuple[str, str, str]]) -> None:
    """Literal cards of one height beside one another: title, text, and what stands last in each."""
    parts = "".join(_card(title, text, last, "group") for title, text, last in found)
    st.html(f'<div class="ms-cards">{parts}</div>')


def card(title: str, text: str, *, todo: str = "", kind: str = "empty") -> None:
    """A literal card: what is (or is not) here, and the one thing to do about it."""
    st.html(_card(title, text, todo, kind))


def _card(title: str, text: str, last: str, kind: str) -> str:
    last = f'<p class="ms-todo">{_literal(last)}</p>' if last else ""
    return f'<div class="ms-card ms-{kind}"><h4>{html.escape(title)}</h4><p>{_literal(text)}</p>{last}</div>'


def empty(title: str, text: str, *, todo: str = "") -> None:
    """The empty state: what would be here, and the one action that brings it."""
    card(title, text, todo=todo)


def problem(error: BaseException, *, doing: str = "") -> None:
    """The error state: what happened, what it means, what to do, and the log behind a fold; what a trace does not hold
    is no error."""
    if isinstance(error, errors.NotRecorded):
        empty(doing or "Nothing to show", f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return
    meaning, todo = next((_MEANINGS[kind] for kind in type(error).__mro__ if kind in _MEANINGS), _OUR_BUG)
    happened = (
        words.sentence(str(error)) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    )
    card(doing or "Something failed", happened, todo=f"{meaning} {todo}", kind="error")
    with st.expander("Log"):
        st.code("".join(traceback.format_exception(error)), language=None, wrap_lines=True)


@contextmanager
def guarded(doing: str = "") -> Iterator[None]:
    """Show a failure of the block as a problem instead of a traceback."""
    try:
        yield
    except StoreError as error:
        problem(error, doing=doing)
    except Exception as error:
        log.exception("failed: %s", doing or "page")
        problem(error, doing=doing)


def loading(height: int = 400):
    """A skeleton that holds the place of a chart while the block computes it."""
    return st.skeleton(height=height)


def banners(trace: Trace, url: str) -> None:
    """What a reader must know about the trace before believing any picture of it."""
    if trace.manifest.steering:
        name = trace.manifest.steering.get("name") or "unnamed"
        note("steered", f"Steered trace. Profile “{name}” changed the routing while this was recorded.")
    if emergent := next((spec for spec in trace.routers if spec.found_by == "adapter emergent"), None):
        note("plain", f"Emergent experts of a dense model. {emergent.note}")
    if toy := trace.manifest.settings.get("toy"):
        note("plain", f"Example of the gallery. What is toy about it: {toy}")
    if trace.state != "complete":
        _partial(trace, url)
    if trace.problems:
        lost = words.amount(len({problem.part for problem in trace.problems}), "part")
        note("error", f"Damaged trace. {lost} and all prompts in it are excluded from every number.")
        with st.expander("Which parts"):
            st.code("\n".join(str(problem) for problem in trace.problems), language=None, wrap_lines=True)
    if said := nan_notice(trace):
        note("error", said)


def _partial(trace: Trace, url: str) -> None:
    running = trace.state == "running"
    with st.container(horizontal=True, vertical_alignment="center", key="partial"):
        if running:
            note("partial", f"Still being traced. This is the picture of {_held(trace)}.")
        else:
            note("partial", f"Unfinished trace: it holds {_held(trace)}.")
            _resume(trace, url)
        if running or sources.changed(url):
            st.button("Refresh", on_click=sources.refresh, args=(url,), key="refresh")


def _held(trace: Trace) -> str:
    """How many of the prompts an unfinished trace holds, and which: `120 of 1,100 prompts, a random sample of ...`."""
    total = trace.manifest.prompt_set.get("prompts")
    of = f"{words.count(trace.num_prompts)} of {words.amount(total, 'prompt')}" if total else (
        words.amount(trace.num_prompts, "prompt")
    )  # fmt: skip
    if trace.manifest.settings.get("batch_order") == "shuffled":
        return f"{of}, in batches drawn at random (seed 0)"
    return f"{of}, not a fair sample: within a stretch of the prompt set the longest come first"


def _resume(trace: Trace, url: str) -> None:
    job = Job(Path(url).absolute().with_name(Path(url).name + SUFFIX)) if "://" not in url else None
    if job is not None and (job.folder / "job.json").exists():
        st.button("Resume", key="resume", on_click=retry_job, args=(job,))
        return
    model = trace.manifest.model.get("name", "MODEL")
    prompts = trace.manifest.prompt_set.get("name") or "PROMPTS"
    with st.popover("How to resume", key="how-to-resume"):
        command = f"moescope trace {model} {shlex.quote(str(prompts))} --out {url} --resume"
        st.code(command, language="bash", wrap_lines=True)


def retry_job(job: Job) -> None:
    """Start a job again where it stopped, with the same settings."""
    try:
        job.retry()
    except (OSError, ValueError) as error:
        st.toast(words.label(f"It could not be started again: {error}"), icon=":material/error:")
        return
    st.toast("The trace continues; the Library shows its progress.", icon=":material/play_arrow:")


def note(kind: str, text: str) -> None:
    """A literal one-line banner: `steered`, `partial`, `error` or `plain`."""
    st.html(f'<div class="ms-note ms-{kind}">{_literal(text)}</div>')
