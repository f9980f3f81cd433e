"""Evaluate: a profile over a prompt set, its controls drawn beside the effect, and the dose curve.

The work is a job of the server that holds the model; this page starts it, follows it and draws what came back. What
came back stays in the session while pages change.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import streamlit as st

from ....store import Trace
from ....tracer.client import Client, RemoteJob, ServerError, as_profile
from ....tracer.evaluate.dose import dose_table
from ....tracer.evaluate.effects import Evaluation
from ....tracer.evaluate.table import with_controls
from ...figures import steer_effects as figures
from ...sentences import evaluation as sentences_steer
from ...shell import messages, show
from ...text import words
from . import evaluation_settings
from .evaluation_settings import Settings
from .server import short

TICK_SECONDS = 1.0
RUN, DONE = "evaluate running", "evaluate done"
"""In the session: the job under way, and the last one's result; each a dict."""
FIRST = ("perplexity", "accuracy")
MEASURES = {"bits_per_byte": "bits per byte", "kl": "KL", "changed": "routing changed"}
"""Measures whose name in the table is not what they are called."""


def evaluate_tab(
    profile: Any, model_source: str, client: Client | None, *, trace: Trace | None = None
) -> None:
    """Draw the tab.

    Args:
        profile: a `Steering`, or its JSON as a mapping.
        model_source: the served model, as the user knows it.
        client: None where no model is being served.
        trace: the open trace, whose prompts are offered first.
    """
    made = as_profile(profile) or {}
    settings = evaluation_settings.draw(made, trace)
    if RUN in st.session_state:
        _follow()
    elif client is None:
        messages.empty(
            "No model to evaluate with",
            "An evaluation runs the profile and its controls over a prompt set, in the process that holds the model.",
            todo="Start the model above.",
        )
    elif not made.get("rules"):
        messages.empty(
            "Nothing is steered yet",
            "This would show what the profile does to each language or group, beside random experts, other layers "
            "and the opposite sign.",
            todo="Switch an expert off on the switchboard, or load a profile.",
        )
    elif settings is not None:
        prompts = words.amount(len(settings.prompts), "prompt")
        messages.say(f"{prompts}, each under {settings.variants} steerings and unsteered.")
        if st.button("Evaluate", type="primary", key="evaluate-start"):
            _start(made, model_source, client, settings)
    if lost := st.session_state.get("evaluate lost"):
        messages.card("The evaluation failed", lost, kind="error",
                    todo="Its numbers are lost; earlier ones stay below. Start it again.")  # fmt: skip
    done = st.session_state.get(DONE)
    if done is not None:
        _result(done, made)


def _start(profile: dict[str, Any], model: str, client: Client, settings: Settings) -> None:
    try:
        job = client.evaluate(list(settings.prompts), profile, **settings.request(profile))
    except ServerError as error:
        messages.card("The evaluation could not be started", str(error), kind="error",
                    todo="Nothing was run. Correct the field named above and start again.")  # fmt: skip
        return
    about = {"profile": profile, "model": model, "by": settings.by, "target": settings.target}
    about |= {"classes": settings.classes, "prompts": settings.prompts.name}
    st.session_state.pop("evaluate lost", None)
    st.session_state[RUN] = {"job": job, **about}
    st.rerun()


def _follow() -> None:
    """The job's progress, refreshed by itself."""
    st.fragment(_progress, run_every=TICK_SECONDS)()


def _progress() -> None:
    running = st.session_state.get(RUN)
    if running is None:
        return
    job: RemoteJob = running["job"]
    try:
        status = job.status()
    except ServerError as error:
        st.session_state.pop(RUN)
        st.session_state["evaluate lost"] = str(error)
        st.rerun()
    if status["state"] in ("waiting", "running"):
        _bar(job, status)
        return
    about = st.session_state.pop(RUN)
    if status["state"] == "complete":
        kept = {name: value for name, value in about.items() if name != "job"}
        st.session_state[DONE] = kept | {"result": status["result"], "seconds": status["seconds"]}
    elif status["state"] == "failed":
        st.session_state["evaluate lost"] = status["error"]
    st.rerun()


def _bar(job: RemoteJob, status: dict[str, Any]) -> None:
    done, total = status["progress"].get("done", 0), status["progress"].get("total", 0)
    seconds = status["seconds"]
    left = f", {words.duration(seconds / done * (total - done))} left" if done else ""
    text = f"{words.count(done)} of {words.amount(total, 'step')}{left}" if total else "waiting for the model"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(1.0, done / total) if total else 0.0, text=words.label(text))
        if st.button("Cancel", key="evaluate-cancel"):
            job.cancel()


def _result(done: dict[str, Any], current: dict[str, Any]) -> None:
    evaluation = Evaluation.from_json(done["result"]["evaluation"])
    if done["profile"].get("rules") != current.get("rules"):
        messages.note(
            "plain", "The profile has changed since. This evaluation belongs to the earlier profile."
        )
    for note in evaluation.notes:
        messages.note("plain", note[:1].upper() + note[1:] + ".")
    by, target, classes = done["by"], done["target"], done["classes"]
    table = effects_of(evaluation, by, target, classes)
    _effects(table, by, target)
    _numbers(table, done)
    if any(kind == "dose" for kind in evaluation.kinds.values()):
        _dose(evaluation, by, target, classes)
    if evaluation.base.texts is not None:
        _answers(evaluation)


def effects_of(evaluation: Evaluation, by: str | None, target: str | None, classes: Any) -> pa.Table:
    """The table behind the page; computed once for the same evaluation."""
    key = (id(st.session_state.get(DONE)), by, target, repr(classes))
    known = st.session_state.get("evaluate table")
    if known is None or known[0] != key:
        known = (key, evaluation.effects(by, target=target, classes=classes))
        st.session_state["evaluate table"] = known
    return known[1]


def _effects(table: pa.Table, by: str | None, target: str | None) -> None:
    names = [name for name in dict.fromkeys(table["measure"].to_pylist()) if name != "log_perplexity"]
    first = next((name for name in names if name.startswith("behaviour")), None)
    first = first or next(name for name in (*FIRST, *names) if name in names)
    measure = st.segmented_control(
        "Measure", names, default=first, key="evaluate-measure",
        format_func=lambda name: words.label(MEASURES.get(name) or str(name)),
    ) or first  # fmt: skip
    show.chart(
        lambda theme: figures.effects_chart(table, measure, by=by, theme=theme),
        table, name=f"steering-{measure}", key="evaluate-effects",
        title=f"{figures.label_of(measure)}, with its controls",
        say=sentences_steer.effect(table, measure, by, target),
    )  # fmt: skip


def _numbers(table: pa.Table, done: dict[str, Any]) -> None:
    rows = with_controls(table)
    measured = words.duration(done["seconds"])
    show.table(
        rows, name="steering-effects", key="evaluate-table",
        say=f"{done['prompts']} with {short(done['model'])}, in {measured}. random: the lowest and the highest end of "
        "any draw's interval. p_draws: share of random controls with an effect at least as large; its minimum is "
        "1/(draws + 1).",
        columns={
            # Beside the names, as it would else stand out of sight at the table's end.
            "measure": st.column_config.TextColumn(pinned=True),
            "group": st.column_config.TextColumn(pinned=True),
            "finding": st.column_config.CheckboxColumn(pinned=True),
        } | {
            part.name: st.column_config.NumberColumn(format="%.4g")
            for part in rows.schema
            if pa.types.is_floating(part.type)
        },
        python=PYTHON.format(by=done["by"], target=done["target"]),
    )  # fmt: skip


def _dose(evaluation: Evaluation, by: str | None, target: str | None, classes: Any) -> None:
    st.subheader("Dose", anchor=False)
    effect = f"behaviour: {next(iter(classes))}" if classes else "log_perplexity"
    if not classes and evaluation.base.tokens_P.sum() == 0:
        effect = "kl"
    table = dose_table(evaluation, by, target=target, effect=effect, classes=classes)
    said = {
        "effect": sentences_steer.dose(table, by),
        "side effect": "Side effects of the same doses (same axis where the measure is the same).",
    }
    for role, say in said.items():
        show.chart(
            lambda theme, role=role: figures.dose_chart(table, role, by=by, theme=theme),
            table, name=f"steering-dose-{role.replace(' ', '-')}", key=f"evaluate-dose-chart-{role}",
            title=f"{role[:1].upper()}{role[1:]} by dose", say=say,
        )  # fmt: skip


def _answers(evaluation: Evaluation) -> None:
    own = evaluation.variants.get("profile")
    if own is None or own.texts is None:
        return
    with st.expander("Answers"):
        rows = zip(evaluation.prompt_ids, evaluation.base.texts or [], own.texts, strict=True)
        st.dataframe(
            pa.Table.from_pylist([{"prompt": p, "base": b, "steered": s} for p, b, s in rows]),
            hide_index=True,
        )


PYTHON = """from moescope.tracer import PromptSet, Steering, load_model
from moescope.tracer.evaluate import evaluate

model, tokenizer = load_model("MODEL")
found = evaluate(model, tokenizer, PromptSet.from_file("prompts.csv"), Steering.from_json("profile.json"))
found.effects({by!r}, target={target!r}).to_pandas()"""
