"""The choices of an evaluation: which prompts, split by what, how many controls, which dose curve."""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import streamlit as st

from ....store import Trace, sample_dir
from ....store.errors import StoreError
from ....store.library import fingerprint
from ....store.response_classes import REFUSAL_RULES
from ....store.slices import MOST_NAME, Slice, save_slice
from ....tracer.prompts.prompt import Prompt, PromptSetError
from ....tracer.prompts.prompt_set import PromptSet
from ...shell import messages, slice_menu, sources, travel
from ...text import words
from ..library.new_trace import KINDS
from ..resonance import classes as response_classes

DOSES = {"none": "", "number of experts": "1, 2, 4, 8", "amount": "0.25, 0.5, 1"}
MOST_PROMPTS = 2000
OF_TRACE, UPLOADED = "the prompts of this trace", "the uploaded file"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was chosen."""

    prompts: PromptSet
    by: str | None
    target: str | None
    draws: int
    new_tokens: int
    classes: dict[str, list[str]] | None
    dose: str
    doses: list[float]

    @property
    def variants(self) -> int:
        """Steerings that will run: the profile, its controls, the doses."""
        return 1 + (self.draws + 2 if self.draws else 0) + len(self.doses) * (1 + self.dose_draws)

    @property
    def dose_draws(self) -> int:
        """Random draws beside each dose."""
        return min(self.draws, 3)

    def request(self, profile: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `Client.evaluate`."""
        options = {
            "by": self.by,
            "target": self.target,
            "controls": self.draws,
            "max_new_tokens": self.new_tokens,
        }
        if not self.doses:
            return options
        dose: dict[str, Any] = {"values": self.doses, "draws": self.dose_draws}
        if self.dose == "number of experts":
            ranking = cells_of(profile)
            dose |= {"ranking": ranking, "values": sorted({min(d, len(ranking)) for d in self.doses})}
        return options | {"dose": dose}


def cells_of(profile: Mapping[str, Any]) -> list[list[int]]:
    """[layer, expert] pairs that a profile names, in its order."""
    found: dict[tuple[int, int], None] = {}
    for rule in profile.get("rules", []):
        layers, experts = rule.get("layers"), rule.get("experts")
        if isinstance(layers, list) and isinstance(experts, list):
            found |= {(layer, expert): None for layer in layers for expert in experts}
    return [[layer, expert] for layer, expert in found]


def draw(profile: Mapping[str, Any], trace: Trace | None = None, trace_name: str = "") -> Settings | None:
    """Draw the form; None where what was chosen can't be evaluated (it says why)."""
    prompts = _prompt_set(trace, trace_name)
    if prompts is None:
        return None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        columns = _columns(prompts)
        by = st.selectbox(
            "Split by", [*columns, None], key="evaluate-by", width=170, format_func=lambda c: c or "nothing"
        )
        values = sorted({v for p in prompts if (v := _value(p, by))}) if by else []
        target = st.selectbox(
            "The effect is on", [None, *values], key="evaluate-target", width=200, disabled=not values,
            format_func=lambda value: "all" if value is None else words.value_name(by or "", value),
        )  # fmt: skip
        most = st.number_input(
            "prompts of each" if by else "prompts", 1, MOST_PROMPTS, 20, key="evaluate-most", width=150,
            help="The first ones; of translations the same texts in every language.",
        )  # fmt: skip
        draws = st.number_input(
            "random draws", 0, 50, 19, key="evaluate-draws", width=150,
            help="Controls with as many random experts of the same layers. A finding needs at least 5; the smallest p "
            "is 1/(draws + 1), 0.05 with 19.",
        )  # fmt: skip
    dose, doses = _dose(profile)
    classes, new = _classes()
    if doses is None or classes is None:
        return None
    return Settings(
        prompts=first_of_each(prompts, by, int(most)), by=by, target=target, draws=int(draws), new_tokens=new,
        classes=classes or None, dose=dose, doses=doses,
    )  # fmt: skip


def first_of_each(prompts: PromptSet, by: str | None, most: int) -> PromptSet:
    """The first prompts of every value of a column; of all prompts where no column is named."""
    seen: dict[str | None, int] = defaultdict(int)
    kept = []
    for prompt in prompts:
        value = _value(prompt, by) if by else None
        seen[value] += 1
        if seen[value] <= most:
            kept.append(prompt)
    return PromptSet(tuple(kept), prompts.name)


def _value(prompt: Prompt, column: str | None) -> str | None:
    return getattr(prompt, column) if column in ("language", "group") else prompt.tags.get(column or "")


def _columns(prompts: PromptSet) -> list[str]:
    names = ["language", "group", *prompts.tag_names]
    return [name for name in names if len({_value(prompt, name) for prompt in prompts} - {None}) > 1]


def _prompt_set(trace: Trace | None, trace_name: str) -> PromptSet | None:
    files = {path.name: path for path in sorted(sample_dir().glob("*.csv"), reverse=True)}
    files = dict(sorted(files.items(), key=lambda pair: pair[0] != "help_parallel.csv"))
    uploaded = st.session_state.get("evaluate-upload")
    offered = [UPLOADED] * (uploaded is not None) + [OF_TRACE] * (trace is not None) + list(files)
    if st.session_state.get("evaluate-prompts") not in [None, *offered]:
        st.session_state["evaluate-prompts"] = offered[0]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = st.selectbox(
            "Prompt set", offered, key="evaluate-prompts", width=320,
            format_func=lambda name: _shown(name, trace, uploaded),
        )  # fmt: skip
        with st.popover("Another file"):
            st.file_uploader("A prompt set", type=KINDS, key="evaluate-upload", on_change=_take_uploaded)
    try:
        if name == UPLOADED and uploaded is not None:
            return _read_upload(uploaded.name, uploaded.getvalue())
        if name == OF_TRACE and trace is not None:
            return _held_out(prompts_of(trace), trace, trace_name)
        return None if name is None else _read(str(files[name]))
    except PromptSetError as error:
        todo = "Choose another prompt set." if name == OF_TRACE else (
            "Correct what is named above and choose the file again."
        )  # fmt: skip
        messages.card("This prompt set can't be used", str(error), kind="error", todo=todo)
        return None


def _take_uploaded() -> None:
    """The box names the prompts that are evaluated: those of a file from the moment that it is there."""
    if st.session_state.get("evaluate-upload") is not None:
        st.session_state["evaluate-prompts"] = UPLOADED


def _shown(name: str, trace: Trace | None, uploaded: Any) -> str:
    """What the box calls a prompt set: with the name of its file."""
    if name == UPLOADED:
        return f"{uploaded.name} (uploaded)"
    of_trace = trace.manifest.prompt_set.get("name") if trace is not None and name == OF_TRACE else None
    return f"{name}: {of_trace}" if of_trace else name


def _held_out(prompts: PromptSet, trace: Trace, trace_name: str) -> PromptSet:
    """The trace's prompts, or one half of them, with the warning that belongs to either."""
    half = st.toggle(
        "only the second half of the texts", key="evaluate-half",
        help="Texts are dealt to two halves by their name; translations stay together. Find the experts on the first "
        "half and evaluate on the second.",
    )  # fmt: skip
    if half:
        kept = second_half(prompts)
        name = f"first half of {trace_name}"[:MOST_NAME]
        if slice_menu.chosen_name(trace) == name:
            messages.say(
                f"{words.amount(len(kept), 'prompt')} of the second half. Resonance counts the first half."
            )
            return kept
        messages.say(
            f"{words.amount(len(kept), 'prompt')} of the second half. Resonance still counts both halves."
        )
        st.button("Find the experts on the first half", key="evaluate-first-half", on_click=_to_first_half,
                  args=(prompts, kept, trace, name))  # fmt: skip
        return kept
    messages.note(
        "plain",
        "These are the prompts of the open trace. Experts that were found on them show too large an effect on them: "
        "evaluate on other prompts, or on a half that was not used to find them.",
    )
    return prompts


def _to_first_half(prompts: PromptSet, second: PromptSet, trace: Trace, name: str) -> None:
    """Keep the other half as a slice, and go to Resonance with it in the bar's filter."""
    later = {prompt.id for prompt in second}
    first = [prompt.id for prompt in prompts if prompt.id not in later]
    try:
        save_slice(sources.library(), Slice(name=name, where={"prompt_id": first}, trace=fingerprint(trace)))
    except (StoreError, OSError) as error:
        st.toast(words.label(f"The first half could not be kept: {error}"), icon=":material/error:")
        return
    travel.to("resonance", slice=name)


def second_half(prompts: PromptSet) -> PromptSet:
    """About half of the texts, drawn by a digest of their name; translations of one text stay together."""

    def chosen(prompt: Prompt) -> bool:
        return hashlib.sha256((prompt.parallel_id or prompt.id).encode()).digest()[0] % 2 == 1

    return PromptSet(tuple(prompt for prompt in prompts if chosen(prompt)), f"{prompts.name}, second half")


def prompts_of(trace: Trace) -> PromptSet:
    """The prompts that a trace was made of, with their tags. Raises PromptSetError where it holds none."""
    names = ("text", "language", "group", "parallel_id", "completion", "choices", "answer")
    rows = []
    for row in trace.prompts().select(["prompt_id", *names, "tags"]).to_pylist():
        given = {name: row[name] for name in names if row[name] not in (None, [])}
        rows.append({**dict(row["tags"] or []), **given, "id": row["prompt_id"]})
    return PromptSet.from_rows(
        rows, name=str(trace.manifest.prompt_set.get("name") or "prompts of the trace")
    )


@st.cache_data(max_entries=4, show_spinner=False)
def _read(path: str) -> PromptSet:
    return PromptSet.from_file(path)


@st.cache_data(max_entries=4, show_spinner=False)
def _read_upload(name: str, data: bytes) -> PromptSet:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{Path(name).suffix}"
        path.write_bytes(data)
        return PromptSet(PromptSet.from_file(path).prompts, name)


def _dose(profile: Mapping[str, Any]) -> tuple[str, list[float] | None]:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        dose = st.segmented_control("Dose curve", list(DOSES), default="none", key="evaluate-dose") or "none"
        if dose == "none":
            return dose, []
        typed = st.text_input("doses", DOSES[dose], key=f"evaluate-doses {dose}", width=220)
    try:
        doses = sorted({float(part) for part in typed.replace(";", ",").split(",") if part.strip()})
    except ValueError:
        doses = []
    if not doses or (dose == "number of experts" and any(d != int(d) or d < 0 for d in doses)):
        messages.note("error", "Doses are numbers with commas between them; of experts whole numbers.")
        return dose, None
    if dose == "number of experts" and not cells_of(profile):
        messages.note("error", "The profile names no experts of which fewer could be taken.")
        return dose, None
    if dose == "amount" and not any("amount" in rule for rule in profile.get("rules", [])):
        messages.note("error", "No rule of the profile has an amount.")
        return dose, None
    return dose, doses


def _classes() -> tuple[dict[str, list[str]] | None, int]:
    with st.expander("Behaviour: what the answers are"):
        new = st.number_input(
            "tokens to generate after each prompt (0: none)", 0, 512, 0, key="evaluate-tokens", width=300
        )
        known = st.session_state.get(response_classes.WRITTEN) or response_classes.as_text(REFUSAL_RULES)
        typed = st.text_area(
            "Response classes: a line each, name: regular expression", known, key="evaluate-classes", height=120,
            help="The first that is found decides. They are only run here, never on the server.",
        )  # fmt: skip
    if not new:
        return {}, 0
    return _read_classes(typed), int(new)


def _read_classes(text: str) -> dict[str, list[str]] | None:
    """Classes from lines of `name: expression`; None (and a note) where a line is none."""
    found: dict[str, list[str]] = {}
    for line in filter(str.strip, text.splitlines()):
        name, colon, pattern = line.partition(":")
        try:
            regex.compile(pattern.strip())
        except regex.error as error:
            messages.note("error", f"{pattern.strip()!r} is not a regular expression: {error}")
            return None
        if not colon or not pattern.strip():
            messages.note("error", f"{line!r}: a class is written name: expression")
            return None
        found.setdefault(name.strip(), []).append(pattern.strip())
    return found
