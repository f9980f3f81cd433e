"""What an evaluation found: effects beside their controls, the dose curve, the answers, other evaluations beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

from ....store.library import fingerprint
from ....tracer.errors import SteeringError
from ....tracer.evaluate import saved as files
from ....tracer.evaluate.dose import dose_table
from ....tracer.evaluate.effects import Evaluation
from ....tracer.evaluate.saved import SavedEvaluation
from ....tracer.evaluate.table import with_controls
from ...figures import steer_effects as figures
from ...sentences import evaluation as sentences_steer
from ...shell import messages, page_context, show
from ...steering.history import Draft
from ...text import words
from ...text.literal import without_folders
from . import evaluation_compare, state

FIRST = ("perplexity", "accuracy")
MEASURE = "effect"
"""Parameter of the address: the measure that is drawn, where it is not the first."""
MEASURES = {
    "bits_per_byte": "bits per byte", "kl": "KL", "changed": "routing changed", "log_perplexity": "log perplexity",
}  # fmt: skip
"""Measures whose name in the table is not what they are called."""


READ_AS = {
    "low": "95 % from", "high": "to", "draws": "random draws", "random_low": "random from", "random_high": "random to",
    "layers": "other layers", "layers_low": "from", "layers_high": "to", "opposite": "opposite sign",
    "opposite_low": "from", "opposite_high": "to", "why": "why not", "p_draws": "p (draws)",
}  # fmt: skip
"""Names of the table's columns as people read them; downloads keep those of `with_controls`."""


@st.cache_resource(max_entries=8, show_spinner=False)
def evaluation_of(folder: str) -> Evaluation:
    """A complete evaluation, which does not change any more. Raises StoreError."""
    return files.open_evaluation(folder).evaluation()


@st.cache_data(max_entries=16, show_spinner=False)
def effects_of(
    folder: str, by: str | None, target: str | None, classes: Mapping[str, list[str]] | None
) -> pa.Table:
    """The table of effects; computed once."""
    return evaluation_of(folder).effects(by, target=target, classes=classes)


def draw(saved: SavedEvaluation, current: dict[str, Any], others: list[SavedEvaluation]) -> None:
    """Draw a complete evaluation.

    Args:
        current: the profile on the page, which may have changed since.
        others: evaluations to compare with.
    Raises:
        StoreError: its files are damaged.
    """
    asked = saved.asked
    evaluation = evaluation_of(str(saved.folder))
    if asked["profile"].get("rules") != current.get("rules"):
        _other_profile(asked["profile"], current)
    if here := _other_trace(asked):
        messages.note("plain", here)
    for note in evaluation.notes:
        messages.note("plain", note[:1].upper() + note[1:] + ".")
    by, target, classes = asked["by"], asked["target"], asked["classes"]
    table = effects_of(str(saved.folder), by, target, classes)
    measure = _effects(saved, table)
    _numbers(saved, table)
    if any(kind == "dose" for kind in evaluation.kinds.values()):
        _dose(saved, evaluation)
    if evaluation.base.texts is not None:
        _answers(evaluation)
    evaluation_compare.draw(saved, measure, others, about(saved))


def _other_profile(own: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """That the page steers otherwise than the evaluation did, with the way to its profile."""
    here = "the page has another one" if current.get("rules") else "the page has none"
    name = f"“{own['name']}”" if own.get("name") else "an unnamed one"
    with st.container(horizontal=True, vertical_alignment="center", key="evaluation-profile"):
        messages.note("plain", f"This evaluation is of its own profile, {name}; {here}.")
        st.button("Load its profile", key="evaluation-load", type="tertiary", on_click=_load, args=(own,),
                  help="Puts it on the switchboard; Undo brings back what was there.")  # fmt: skip


def _load(profile: Mapping[str, Any]) -> None:
    try:
        state.put(Draft.from_json(dict(profile)))
    except SteeringError as error:
        st.toast(words.label(f"It could not be loaded: {error}"), icon=":material/error:")


def _other_trace(asked: Mapping[str, Any]) -> str:
    """That the evaluation was started from another trace than the bar shows."""
    made_on = (asked.get("trace") or {}).get("fingerprint")
    here = page_context.current()
    if here is None or not made_on or made_on == fingerprint(here.trace):
        return ""
    name = asked["trace"]["name"]
    return f"This evaluation was started from another trace, “{name}”; the bar above does not act on it."


def about(saved: SavedEvaluation) -> dict[str, Any]:
    """What a reader must know of an evaluation's origin: of its own model and prompts, not of the open trace's."""
    asked = saved.asked
    profile = asked["profile"]
    return {
        "model": without_folders(asked["model"]), "prompt set": asked["prompt_set"],
        "prompts": len(asked["prompts"]), "chosen": f"profile {profile.get('name') or 'unnamed'}",
        "steering": profile.get("name"), "evaluation": saved.id, "draws": asked["options"]["controls"],
        "seed": asked["options"].get("seed"),
        "versions": asked["versions"],
    }  # fmt: skip


def python_of(saved: SavedEvaluation, call: str) -> str:
    """Lines that read the evaluation from its folder and make a table of it; they run as they are."""
    return (
        "from moescope.tracer.evaluate.saved import open_evaluation\n\n"
        f"saved = open_evaluation({str(Path(saved.folder).absolute())!r})\n"
        "evaluation = saved.evaluation()  # or measured anew: saved.run(model, tokenizer)\n"
        f"table = {call}\n"
    )


def effects_call(saved: SavedEvaluation) -> str:
    """The call that makes the table of effects."""
    asked = saved.asked
    return f"evaluation.effects({asked['by']!r}, target={asked['target']!r}, classes={asked['classes']!r})"


def _effects(saved: SavedEvaluation, table: pa.Table) -> str:
    asked = saved.asked
    names = [name for name in dict.fromkeys(table["measure"].to_pylist()) if name != "log_perplexity"]
    first = next((name for name in names if name.startswith("behaviour")), None)
    first = first or next(name for name in (*FIRST, *names) if name in names)
    key = f"evaluate-measure-{saved.id}"
    if (wanted := page_context.asked(MEASURE)) in names:
        st.session_state[key] = wanted
    else:
        st.session_state.setdefault(key, first)
    measure = st.segmented_control(
        "Measure", names, key=key,
        format_func=lambda name: words.label(MEASURES.get(name) or str(name)),
    ) or first  # fmt: skip
    page_context.remember(MEASURE, None if measure == first else measure)
    show.chart(
        lambda theme: figures.effects_chart(table, measure, by=asked["by"], theme=theme),
        table, name=f"steering-{measure}", key="evaluate-effects",
        title=f"Steering: {figures.label_of(measure)}, with its controls",
        say=sentences_steer.effect(table, measure, asked["by"], asked["target"]),
        python=python_of(saved, effects_call(saved)), about=about(saved), files=_files(saved),
    )  # fmt: skip
    return measure


def _files(saved: SavedEvaluation) -> dict[str, Any]:
    return {f"profile-{saved.id}.json": saved.asked["profile"]}


def _numbers(saved: SavedEvaluation, table: pa.Table) -> None:
    asked, rows = saved.asked, with_controls(table)
    measured = words.duration(saved.status().seconds)
    show.table(
        rows, name="steering-effects", key="evaluate-table",
        say=f"{asked['prompt_set']} with {without_folders(asked['model'])}, in {measured}. random: the lowest and the "
        "highest end of any draw's interval. p (draws): share of random controls with an effect at least as large; its "
        "minimum is 1/(draws + 1).",
        columns=READ_AS | {
            # Beside the names, as it would else stand out of sight at the table's end.
            "measure": st.column_config.TextColumn(pinned=True),
            "group": st.column_config.TextColumn(pinned=True),
            "finding": st.column_config.CheckboxColumn(pinned=True),
        } | {
            part.name: st.column_config.NumberColumn(READ_AS.get(part.name), format="%.4g")
            for part in rows.schema
            if pa.types.is_floating(part.type)
        },
        python="from moescope.tracer.evaluate.table import with_controls\n"
        + python_of(saved, f"with_controls({effects_call(saved)})"),
        about=about(saved), shown=_in_words(rows),
    )  # fmt: skip


def _in_words(rows: pa.Table) -> pa.Table:
    """The table with measures by the names of the chart."""
    said = [MEASURES.get(name, name) for name in rows["measure"].to_pylist()]
    return rows.set_column(rows.schema.get_field_index("measure"), "measure", pa.array(said))


def _dose(saved: SavedEvaluation, evaluation: Evaluation) -> None:
    st.subheader("Dose", anchor=False)
    asked = saved.asked
    by, target, classes = asked["by"], asked["target"], asked["classes"]
    effect = f"behaviour: {next(iter(classes))}" if classes else "log_perplexity"
    if not classes and evaluation.base.tokens_P.sum() == 0:
        effect = "kl"
    table = dose_table(evaluation, by, target=target, effect=effect, classes=classes)
    said = {
        "effect": sentences_steer.dose(table, by),
        "side effect": "Side effects of the same doses (same axis where the measure is the same).",
    }
    call = f"dose_table(evaluation, {by!r}, target={target!r}, effect={effect!r}, classes={classes!r})"
    for role, say in said.items():
        show.chart(
            lambda theme, role=role: figures.dose_chart(table, role, by=by, theme=theme),
            table, name=f"steering-dose-{role.replace(' ', '-')}", key=f"evaluate-dose-chart-{role}",
            title=f"{role[:1].upper()}{role[1:]} by dose", say=say,
            python="from moescope.tracer.evaluate.dose import dose_table\n" + python_of(saved, call),
            about=about(saved),
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
