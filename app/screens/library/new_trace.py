"""The form that starts a trace: a model, a prompt set, and how to record; the work is a process of its own."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import streamlit as st

from ....store import sample_dir
from ....tracer.jobs.jobs import Job, start_trace
from ....tracer.models.looks_dense import looks_dense
from ...shell import messages as states
from ...text.literal import safe_name
from . import jobs_panel, prompt_reading, prompt_template
from . import loading as load_form

UPLOADS = ".uploads"
READ = ".prompts"
"""Folder of prompt sets that were read in another way than their names say, in moescope's own form."""
DIGITS = 16
"""Hexadecimal digits of a content's digest that name its folder."""
FILE, TEMPLATE = "a prompt set", "a template with slots"
KINDS = ["csv", "tsv", "xlsx", "ods", "json", "jsonl", "parquet", "txt"]
CAPTURES = {
    "ids only": ("ids",),
    "ids and gate weights": ("ids", "weights"),
    "with router entropy": ("ids", "weights", "entropy"),
    "router logits and probabilities": ("ids", "weights", "probability", "entropy", "logits"),
    "expert output norms and similarity": ("ids", "weights", "entropy", "output_norm", "similarity"),
}
STARTED = "new started"
"""Folder of the job that this session started last: its line stands under the button too."""
GROUPS = 32
"""Groups that a layer of a dense model is split into at first."""


def draw(library: Path) -> None:
    """Draw the form; a started job shows in the jobs panel."""
    st.subheader("Trace a model", anchor=False)
    sample = sample_dir() / "model"
    model = st.text_input(
        "Model", value=str(sample) if sample.is_dir() else "", key="new-model",
        placeholder="folder of a model, or its name on the hub",
        help="A folder with config.json and safetensors, a GGUF file, or a name that transformers can load.",
    )  # fmt: skip
    groups = _emergent(model.strip())
    given = _prompt_file(library)
    read = prompt_reading.draw(given, library / READ) if given else None
    if (
        given
        and read is None
        and st.session_state.get("new-upload") is not None
        and not prompt_reading.has_columns(given)
    ):
        given.unlink(
            missing_ok=True
        )  # what no menu makes readable is not kept; no other content lies under its name
    prompts, checked = read or (None, None)
    left, right = st.columns(2)
    capture = left.selectbox("Record", list(CAPTURES), index=1, key="new-capture")
    tokens = right.number_input("Tokens to generate", 0, 4096, 0, key="new-tokens")
    limit = left.number_input(
        "Only the first prompts",
        1,
        max(len(checked), 1) if checked else 1,
        None,
        key="new-limit",
        placeholder="all",
    )
    free = _free_name(library, prompts)
    name = right.text_input("Name of the trace", value=free, key=f"new-name-{free}")
    chat = st.toggle("apply the chat template", key="new-chat")
    loading = load_form.draw()
    wrong = loading.pop("problem", None)
    ready = bool(model.strip() and checked and name.strip() and not wrong)
    asked = st.button("Start tracing", type="primary", disabled=not ready, key="new-start")
    if asked and prompts and checked:
        options: dict[str, Any] = {"capture": CAPTURES[capture or "ids and gate weights"]}
        options |= {"max_new_tokens": int(tokens), "chat": chat, "limit": int(limit) if limit else None}
        options |= loading | ({"experts": groups} if groups else {}) | {"prompts_name": checked.name}
        start(library, model.strip(), prompts, name, options | {"ask": True})
    if (started := st.session_state.get(STARTED)) and (job := Job(Path(started))).folder.exists():
        jobs_panel.draw_one(job, place="beside-")


def _emergent(model: str) -> int | None:
    """Into how many groups to split the layers of a dense model; None to trace experts that were trained."""
    dense = looks_dense(model) if model else None
    if dense is False:
        return None
    wanted = st.toggle(
        "emergent experts: split the feed-forward layers of a dense model into groups of neurons",
        value=bool(dense), key=f"new-emergent-{model}",
        help="For a model without routed experts. Nothing is trained and the model's output stays as it is.",
    )  # fmt: skip
    if not wanted:
        return None
    states.say("These groups of neurons were never trained as experts; every page of the trace will say so.")
    return int(st.number_input("Groups in a layer", 2, 1024, GROUPS, key="new-groups",
                               help="Must divide the number of neurons of a layer."))  # fmt: skip


def start(library: Path, model: str, prompts: Path, name: str, options: dict[str, Any]) -> None:
    """Start the job and show it; says why where it can't be started."""
    folder = library / safe_name(name)
    if (folder / "trace.json").exists():
        states.card("That name is taken", f"{folder} holds a trace already.", kind="error",
                    todo="Choose another name; nothing was changed.")  # fmt: skip
        return
    try:
        library.mkdir(parents=True, exist_ok=True)
        job = start_trace(model, prompts, folder, **options)
        st.session_state[STARTED] = str(job.folder)
    except OSError as error:
        states.card("The trace could not be started", str(error), kind="error",
                    todo="Check that the library's folder can be written, or choose another name.")  # fmt: skip
        return
    st.rerun()


def _prompt_file(library: Path) -> Path | None:
    source = st.segmented_control(
        "Prompts", [FILE, TEMPLATE], default=FILE, key="new-source", required=True, label_visibility="collapsed"
    )  # fmt: skip
    if source == TEMPLATE:
        made = prompt_template.draw()
        return None if made is None else _keep(library, *made)
    offered = {path.name: path for path in sorted(sample_dir().glob("*.csv"))}
    offered |= _kept(library)
    uploaded = st.file_uploader(
        "Prompt set: CSV, TSV, Excel, JSON, JSONL, Parquet, or text with a prompt a line", type=KINDS, key="new-upload",
        help="One column holds the prompts: `text`, or another that you choose below. Optional columns: id, language, "
        "group, parallel_id, completion, choices and answer, messages; every other column becomes a tag to filter "
        "and group by.",
    )  # fmt: skip
    if uploaded is not None:
        return _keep(library, uploaded.name, uploaded.getvalue())
    if not offered:
        return None
    chosen = st.selectbox("or one that is here already", list(offered), key="new-offered")
    return offered.get(chosen or "")


def _keep(library: Path, name: str, data: bytes) -> Path:
    """The uploaded file in the library, in a folder named by its content: two people's files of one name stay two."""
    path = library / UPLOADS / hashlib.sha256(data).hexdigest()[:DIGITS] / safe_name(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".upload-", delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    return path


def _kept(library: Path) -> dict[str, Path]:
    """What was uploaded before, newest first: name → file; with its mark where several have one name."""
    files = [path for path in (library / UPLOADS).glob("*/*") if path.is_file() and path.name[0] != "."]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    several = {name for name, number in Counter(path.name for path in files).items() if number > 1}
    return {
        f"{path.name} ({path.parent.name[:6]})" if path.name in several else path.name: path for path in files
    }


def _free_name(library: Path, prompts: Path | None) -> str:
    base = safe_name(prompts.stem) if prompts else "trace"
    name, number = base, 2
    while (library / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name
