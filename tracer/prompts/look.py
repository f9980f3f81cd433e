"""What a prompt file seems to be, before it is read: format, encoding, delimiter, columns, and what each is taken for.

The app shows it beside an upload, `moescope prompts look` prints it. Nothing is changed: a guess is told, and taken
only when the user says so (`PromptSet.from_file(path, delimiter=";", encoding="cp1252")`).
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...store.foreign.delimited import NAMES, likely_delimiter
from .check import ALIASES, LABELS
from .layouts import layout_of
from .prompt import PromptSetError
from .prompt_set import PromptSet
from .read import FORMATS, read_rows

_TABLES = {"csv": ",", "tsv": "\t"}
_BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))  # fmt: skip
_LOOKED_AT = 1 << 16
BINARY = ("parquet", "sheet")
"""Formats that tell their own encoding."""


@dataclass(frozen=True)
class FileLook:
    """What was found out about a file; `options` are what `from_file` needs to read it like this."""

    name: str
    format: str | None
    encoding: str
    delimiter: str | None
    """Of a table; None for other formats."""
    columns: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)
    """Column → what it is taken for: text, id, language, ..., or tag."""
    layout: str | None = None
    """Name of the published layout, if it has one (ShareGPT, Alpaca, ...)."""
    prompts: int | None = None
    first: tuple[dict[str, Any], ...] = ()
    """The first prompts, as they would be traced."""
    notes: tuple[str, ...] = ()
    problem: str | None = None
    """Why it can't be read like this, in one line."""

    @property
    def options(self) -> dict[str, str]:
        """Options of `PromptSet.from_file` that differ from its own."""
        found = {} if self.encoding in ("utf-8", "utf-8-sig") else {"encoding": self.encoding}
        usual = _TABLES.get(self.format or "")
        return found if self.delimiter in (None, usual) else {**found, "delimiter": self.delimiter or ""}

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"options": self.options}


def look_at(
    path: str | Path, *, format: str | None = None, delimiter: str | None = None, encoding: str | None = None
) -> FileLook:
    """Finds out how a prompt file can be read; what is given is taken as it is, the rest is guessed and told.

    Raises:
        PromptSetError: the file can't be opened at all.
    """
    path = Path(path)
    kind = format or FORMATS.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError as error:
        raise PromptSetError(f"{path}: cannot be read: {error.strerror or error}") from None
    notes = []
    code = encoding or ("utf-8" if kind in BINARY else _encoding(head))
    if code not in ("utf-8", "utf-8-sig"):
        notes.append(f"the text seems to be {code}, not UTF-8")
    mark = delimiter
    if kind in _TABLES and mark is None:
        text = head.decode(code, "replace")
        mark = likely_delimiter(text[: text.rfind("\n") + 1] or text) or _TABLES[kind]
        if mark != _TABLES[kind]:
            notes.append(f"the cells seem to be separated by {NAMES[mark]}s ({mark!r})")
    options: dict[str, Any] = {"format": kind, "delimiter": mark, "encoding": code}
    look = {"name": path.name, "format": kind, "encoding": code, "delimiter": mark}
    try:
        first = next(iter(read_rows(path, kind, mark, code)), None)
        cells = {} if first is None else first[1]
        found = layout_of(cells)
        look |= {"columns": tuple(cells), "roles": roles_of(cells), "layout": found and found.name}
        prompts = PromptSet.from_file(path, **options)
    except PromptSetError as error:
        return FileLook(**look, notes=tuple(notes), problem=str(error))
    shown = tuple(prompt.to_json() for prompt in itertools.islice(prompts, 3))
    return FileLook(**look, notes=(*notes, *prompts.notes), prompts=len(prompts), first=shown)


def _encoding(head: bytes) -> str:
    """By the byte order mark, or by what decodes; cp1252 (Excel on Windows) where UTF-8 doesn't."""
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    odd, even = head[1::2].count(0), head[::2].count(0)
    if odd + even > len(head) // 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    # The last character may be cut.
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def roles_of(cells: Iterable[str]) -> dict[str, str]:
    """What each column is taken for where the file has no published layout."""
    roles, taken = {}, set()
    names = {alias: wanted for wanted, aliases in ALIASES.items() for alias in aliases}
    names |= {name: name for name in (*LABELS, "completion", "choices", "messages")}
    for column in cells:
        role = names.get(column.strip().lower(), names.get(column, "tag"))
        roles[column] = "tag" if role in taken else role
        taken.add(role)
    return roles
