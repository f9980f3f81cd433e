"""Import a recording of others: a file, its format, what the importer checked, and the trace that it became.

The work is a process of its own, `moescope import`: what a broken file does, it does not do to the app.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from ....store.importers import FORMATS, parameters
from ....store.importers.formats import OPTIONS
from ...shell import messages, sources, travel
from ...text import words
from ...text.literal import safe_name

MOST_MB = 200
"""Of an upload, which is held in memory; a larger file is named by its path."""
PATIENCE_S = 3600
DONE = "import done"
FIELDS = {
    "experts": "Experts of a router", "layers": "Layers, as 3,4,5", "top_k": "Experts a token (top k)",
    "num_layers": "Layers of the arrays (num layers)", "labels": "Labels, as language=en,de",
    "token_text": "Tokenizer: a folder or a name",
}  # fmt: skip
FLAGS = {"token_text": "tokenizer"}
"""Options that the command calls by another name."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What came of an import."""

    name: str
    made: dict[str, Any] | None = None
    """prompts, tokens, events, notes."""
    problem: str = ""


def draw(library: Path) -> None:
    """Draw the form and, under its button, what came of the last import."""
    st.subheader("Import a recording", anchor=False)
    form = st.selectbox(
        "Format", list(FORMATS), key="import-format", format_func=lambda name: f"{name}: {FORMATS[name].summary}",
        help="Routing that an engine or your own code recorded; docs/import.md describes each format.",
    ) or next(iter(FORMATS))  # fmt: skip
    suffixes = [suffix.lstrip(".") for suffix in FORMATS[form].suffixes]
    uploaded = st.file_uploader(
        "Recording", type=suffixes, key=f"import-file {form}", max_upload_size=MOST_MB,
        help=f"Up to {MOST_MB} MB; give a larger file by its path.",
    )  # fmt: skip
    path = st.text_input(
        "or a file on the machine of the app", key="import-path", placeholder="/data/routing.parquet"
    )
    options = _options(form)
    stem = Path(uploaded.name if uploaded is not None else (path or "").strip() or "imported").stem
    name = st.text_input(
        "Name of the trace", value=_free(library, safe_name(stem)), key=f"import-name {stem}"
    )
    ready = bool((uploaded is not None or (path or "").strip()) and (name or "").strip())
    if st.button("Import", type="primary", disabled=not ready, key="import-start"):
        with st.spinner("The recording is read and checked"), tempfile.TemporaryDirectory() as scratch:
            given = Path((path or "").strip()).expanduser()
            if uploaded is not None:
                given = Path(scratch) / safe_name(uploaded.name)
                given.write_bytes(uploaded.getvalue())
            st.session_state[DONE] = run(form, given, library / safe_name(name or ""), options)
        if st.session_state[DONE].made:
            # The table of traces above has to show it.
            st.rerun()
    if done := st.session_state.get(DONE):
        _told(done)


def _options(form: str) -> dict[str, str]:
    """The options that the format takes, as the command reads them."""
    # Where a file may not say how many experts a token has, the refusal asks for what is in here.
    with st.expander("Options", key=f"import-options-{form}", expanded="top_k" in parameters(form)):
        found = {}
        for name, parameter in parameters(form).items():
            number = parameter.annotation in (int, int | None)
            draw_one = st.number_input if number else st.text_input
            given: dict[str, Any] = {"key": f"import-{form}-{name}", "help": OPTIONS[name]}
            given |= {"min_value": 1, "value": None, "step": 1} if number else {"value": ""}
            value = draw_one(FIELDS.get(name, name.replace("_", " ")), **given)
            if value not in (None, ""):
                found[FLAGS.get(name, name)] = str(value)
        return found


def run(form: str, path: Path, out: Path, options: Mapping[str, str]) -> Finished:
    """Import a file in a process; what it said in one line where it refused."""
    if (out / "trace.json").exists():
        return Finished(
            name=out.name, problem=f"{out.name}: a trace of that name is there already; choose another"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moescope.app", "import", form, str(path), "--out", str(out), "--json"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}={value}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finished(name=out.name, problem=str(error))
    if done.returncode == 0:
        return Finished(name=out.name, made=json.loads(done.stdout.strip().splitlines()[-1]))
    said = [line for line in done.stderr.strip().splitlines() if line.strip()]
    killed = "it was killed, probably for lack of memory" if done.returncode < 0 else "no reason was given"
    # The command ends with one line that says what is wrong; the name of a scratch folder says nothing.
    problem = (
        said[-1].removeprefix("Error: ").removeprefix("moescope: ").replace(f"{path.parent}/", "")
        if said
        else killed
    )
    return Finished(name=out.name, problem=problem)


def _told(done: Finished) -> None:
    """What was made and what was checked, or why nothing was."""
    if done.made is None:
        messages.card("Nothing was imported", done.problem, kind="error",
                      todo="Choose the format or the options that fit the file; nothing was written.")  # fmt: skip
        return
    made = done.made
    parts = [words.amount(made[key], noun) for key, noun in (("prompts", "sequence"), ("tokens", "token"),
                                                               ("events", "event")) if made[key]]  # fmt: skip
    once = (
        "every token chooses each expert once" if made["events"] else "no expert has more choices than tokens"
    )
    with st.container(border=True, key="import-done"):
        messages.say(
            f"{done.name} is imported: {', '.join(parts)}. Checked: {once}, ids and counts are in range, "
            "placeholders are left out."
        )
        for note in made["notes"]:
            messages.say(f"{note[:1].upper()}{note[1:]}.".replace("..", "."))
        if done.name in sources.summaries():
            st.button("Open", type="primary", key="import-open", on_click=travel.to, args=("heatmap",),
                      kwargs={"trace": done.name})  # fmt: skip


def _free(library: Path, base: str) -> str:
    name, number = base, 2
    while (library / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name
