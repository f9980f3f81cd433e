"""How a prompt file is read: what was detected, shown and open to change, and what that makes of it in numbers."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ....store.foreign.delimited import NAMES
from ....tracer.prompts.look import BINARY, FileLook, look_at, roles_of
from ....tracer.prompts.mapped import ROLES, Reading, columns_of, counted, read_mapped
from ....tracer.prompts.prompt import PromptSetError
from ....tracer.prompts.prompt_set import PromptSet
from ....tracer.prompts.write import write_prompts
from ...shell import messages
from ...text import words
from ...text.literal import excerpt

ENCODINGS = (
    "utf-8",
    "cp1252",
    "latin-1",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "shift_jis",
    "gb18030",
    "euc_kr",
)
NOTHING = "none"
KINDS = {"csv": "CSV", "tsv": "TSV", "txt": "text, a prompt a line", "sheet": "the first sheet of a workbook"}
LABELS = {
    "text": "Text", "id": "Id", "language": "Language", "group": "Group", "parallel_id": "Parallel id",
    "completion": "Completion",
}  # fmt: skip


def draw(path: Path, folder: Path) -> tuple[Path, PromptSet] | None:
    """Draw what was found out about a file and the menus that change it.

    Args:
        folder: for the file in moescope's own form, where it is read in another way than its name says.
    Returns:
        The file to trace and its prompts; None where it can't be read (it says why).
    """
    stamp = path.stat().st_mtime_ns
    look = _look(str(path), stamp)
    key = f"{path.name} {stamp}"
    with st.expander("How this file is read", expanded=look.problem is not None, key=f"reading {key}"):
        messages.say(_detected(look))
        reading = _choose(path, look, key)
    if reading.roles and not reading.roles["text"] and "messages" not in look.roles.values():
        messages.empty(
            "Which column holds the prompts?", "No column has a name that says so, such as text, prompt or input.",
            todo="Choose it under Text above; then the prompts are counted here.",
        )  # fmt: skip
        return None
    # Read by the names of the columns, the file itself is what is traced.
    by_name = dict(reading.roles) == _detected_roles(list(look.columns))
    roles = () if by_name else tuple(reading.roles.items())
    try:
        prompts = _read(str(path), stamp, reading.encoding, reading.delimiter, roles)
    except PromptSetError as error:
        messages.card(
            "This prompt set can't be used", str(error), kind="error",
            todo="Nothing was started. Choose how it is read above, or correct the row named here and upload it again.",
        )  # fmt: skip
        return None
    _told(prompts)
    usual = not look.options and (reading.encoding, reading.delimiter) == (look.encoding, look.delimiter)
    return (path if usual and not roles else _own_form(path, prompts, folder)), prompts


def has_columns(path: Path) -> bool:
    """Whether anything could be read of the file, so that another choice in the menus may make prompts of it."""
    look = _look(str(path), path.stat().st_mtime_ns)
    try:
        return bool(columns_of(path, Reading(encoding=look.encoding, delimiter=look.delimiter)))
    except PromptSetError:
        return False


def _detected(look: FileLook) -> str:
    """The detection in one line."""
    parts = [KINDS.get(look.format or "", look.format or "unknown kind")]
    if look.format not in BINARY:
        parts.append(look.encoding.upper())
    if look.delimiter:
        parts.append(f"cells separated by {NAMES.get(look.delimiter, repr(look.delimiter))}s")
    if look.layout:
        parts.append(f"laid out as {look.layout}")
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in look.notes)
    return f"Detected: {', '.join(parts)}.{notes}"


def _choose(path: Path, look: FileLook, key: str) -> Reading:
    """The menus."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        encoding, delimiter = look.encoding, look.delimiter
        if look.format not in BINARY:
            known = list(dict.fromkeys([look.encoding, *ENCODINGS]))
            encoding = st.selectbox("Encoding", known, key=f"encoding {key}", width=140) or look.encoding
        if look.delimiter is not None:
            marks = list(dict.fromkeys([look.delimiter, *NAMES]))
            delimiter = st.selectbox("Cells are separated by", marks, key=f"delimiter {key}", width=190,
                                     format_func=lambda mark: NAMES.get(mark, repr(mark)))  # fmt: skip
    reading = Reading(encoding=encoding, delimiter=delimiter)
    if look.layout or look.format == "txt":
        return reading
    try:
        columns = columns_of(path, reading)
    except PromptSetError:
        return reading
    found = _detected_roles(columns)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        roles = {}
        for role in ROLES:
            options = [NOTHING, *columns]
            index = options.index(found[role] or NOTHING) if found[role] in options else 0
            chosen = st.selectbox(LABELS[role], options, index=index, width=150,
                                  key=f"role {role} {encoding} {delimiter} {key}")  # fmt: skip
            roles[role] = None if chosen == NOTHING else chosen
    rest = [column for column in columns if column not in roles.values()]
    if rest:
        messages.say(
            f"Other columns become tags or keep the meaning of their names: {words.listing(rest, most=8)}."
        )
    return Reading(encoding=encoding, delimiter=delimiter, roles=roles)


def _detected_roles(columns: list[str]) -> dict[str, str | None]:
    """Role → the column that is taken for it by its name."""
    named = roles_of(columns)
    return {role: next((column for column in columns if named[column] == role), None) for role in ROLES}


def _told(prompts: PromptSet) -> None:
    """What the prompts hold, in numbers."""
    parts = [words.amount(len(prompts), "prompt"), *counted(prompts).values()]
    tags = f" Tags: {words.listing(prompts.tag_names, most=8)}." if prompts.tag_names else ""
    first = f" The first: “{excerpt(prompts[0].text, 60)}”" if len(prompts) else ""
    messages.say(f"{'; '.join(parts)}.{tags}{first}")
    for note in prompts.notes:
        messages.say(f"{note[:1].upper()}{note[1:]}.")


def _own_form(path: Path, prompts: PromptSet, folder: Path) -> Path:
    """The prompts as JSON lines with moescope's own columns: what the job reads."""
    target = folder / prompts.fingerprint[:16] / f"{path.stem}.jsonl"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_prompts(prompts, target)
    return target


@st.cache_data(max_entries=8, show_spinner=False)
def _look(path: str, stamp: int) -> FileLook:
    return look_at(path)


@st.cache_data(max_entries=8, show_spinner=False)
def _read(
    path: str, stamp: int, encoding: str, delimiter: str | None, roles: tuple[tuple[str, str | None], ...]
) -> PromptSet:
    if not roles:
        return PromptSet.from_file(path, encoding=encoding, delimiter=delimiter)
    return read_mapped(Path(path), Reading(encoding=encoding, delimiter=delimiter, roles=dict(roles)))
