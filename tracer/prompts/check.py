"""One row of cells → one `Prompt`: what each column may hold, and what its message says where it may not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .prompt import Prompt, PromptSetError

ALIASES = {"text": ("text", "prompt", "input"), "id": ("id", "prompt_id"), "answer": ("answer", "answerKey")}
LABELS = ("language", "group", "parallel_id")
LONGEST_LANGUAGE = 64
"""Languages may be called by any name; what is longer is some other column."""


def check_rows(rows: Iterable[tuple[str, Mapping[str, Any]]], name: str) -> Iterator[Prompt]:
    """Yields a prompt for each row.

    Raises:
        PromptSetError: no rows, no text column, an id twice, or a cell that its column can't hold.
    """
    places: dict[str, str] = {}
    for number, (place, cells) in enumerate(rows, 1):
        prompt = _Row(name, place, cells).prompt(number)
        if prompt.id in places:
            raise PromptSetError(
                f"{name}, {place}, column 'id': duplicate id {prompt.id!r} (first in {places[prompt.id]})"
            )
        places[prompt.id] = place
        yield prompt
    if not places:
        raise PromptSetError(f"{name}: holds no prompts")


class _Row:
    def __init__(self, name: str, place: str, cells: Mapping[str, Any]) -> None:
        self.name, self.place = name, place
        plain = {column: _plain(value) for column, value in cells.items()}
        self.cells = {column: value for column, value in plain.items() if not _missing(value)}
        self.columns = list(cells)
        self.used: set[str] = set()
        self.labels: list[str] = []
        """Of the choices, where the file gives any: A, B, C, ..."""

    def fail(self, column: str, reason: str) -> PromptSetError:
        return PromptSetError(f"{self.name}, {self.place}, column {column!r}: {reason}")

    def prompt(self, number: int) -> Prompt:
        messages = self.messages()
        text = self.text(messages)
        choices = self.choices()
        return Prompt(
            id=self.id(number),
            text=text,
            **{label: self.label(label) for label in LABELS},
            completion=self.string("completion"),
            choices=choices,
            answer=self.answer(choices),
            messages=messages,
            tags=self.tags(),
        )

    def column(self, wanted: str) -> str:
        """The name that a column goes by here: exactly, by an alias, or in other letter case."""
        names = ALIASES.get(wanted, (wanted,))
        found = next((name for name in names if name in self.columns), None)
        if found is None:
            lower = {name.strip().lower(): name for name in reversed(self.columns)}
            found = next((lower[name] for name in names if name in lower), wanted)
        self.used.add(found)
        return found

    def string(self, wanted: str) -> str | None:
        column = self.column(wanted)
        value = self.cells.get(column)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.fail(column, f"must be text, found {value!r:.60}")
        return self.clean(column, value)

    def clean(self, column: str, text: str) -> str:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.fail(column, f"character {error.start + 1} is half of a surrogate pair") from None
        if "\0" in text:
            raise self.fail(column, f"character {text.index(chr(0)) + 1} is a NUL, which text can't contain")
        return text

    def text(self, messages: tuple[tuple[str, str], ...] | None) -> str:
        column = self.column("text")
        if column not in self.columns:
            if messages:
                return "\n".join(content for _, content in messages)
            found = ", ".join(map(repr, self.columns)) or "none"
            hint = ""
            if len(self.columns) == 1 and any(mark in self.columns[0] for mark in ";\t,"):
                hint = "; is the delimiter right?"
            elif any(len(name) > 30 or name.strip().count(" ") > 2 for name in self.columns):
                hint = "; is there a header line?"
            raise PromptSetError(f"{self.name}, {self.place}: no column 'text' (columns: {found:.200}){hint}")
        text = self.string("text")
        if text is None and messages:
            return "\n".join(content for _, content in messages)
        if text is None or not text.strip():
            raise self.fail(column, "is empty")
        return text

    def id(self, number: int) -> str:
        column = self.column("id")
        named = [name for name in self.columns if name.strip().lower() in ALIASES["id"]]
        if len(named) > 1:
            raise self.fail(
                named[1], f"column {named[0]!r} holds the ids already: rename or drop one of them"
            )
        if column not in self.columns:
            return str(number)
        value = self.scalar(column)
        if value is None:
            raise self.fail(column, "is empty")
        return value

    def label(self, wanted: str) -> str | None:
        column = self.column(wanted)
        value = self.scalar(column)
        if wanted == "language" and value is not None and len(value) > LONGEST_LANGUAGE:
            raise self.fail(column, f"{value!r:.60} is not a language code (BCP 47: en, pt-BR, zh-Hant)")
        return value

    def scalar(self, column: str) -> str | None:
        """Text, or a whole number as text; surrounding spaces are dropped."""
        value = self.cells.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.fail(column, f"must be text or a whole number, found {value!r:.60}")
        return self.clean(column, value).strip() or None

    def choices(self) -> tuple[str, ...] | None:
        column = self.column("choices")
        value = self.cells.get(column)
        if value is None or value == "":
            return None
        if isinstance(value, str):
            value = self.json(column, value) if value.lstrip().startswith("[") else value.split("|")
        if isinstance(value, Mapping):
            self.labels, value = _labelled(value)
        if not isinstance(value, list | tuple) or not all(_is_choice(choice) for choice in value):
            raise self.fail(column, "must be a list of texts, or texts separated by '|'")
        choices = tuple(self.clean(column, str(choice)) for choice in value)
        if len(choices) < 2:
            raise self.fail(column, "needs at least two choices")
        if not all(choice.strip() for choice in choices):
            raise self.fail(column, "holds an empty choice")
        if len(set(choices)) < len(choices):
            raise self.fail(column, "holds the same choice twice")
        return choices

    def answer(self, choices: tuple[str, ...] | None) -> int | None:
        """The index of the right choice, or its text."""
        column = self.column("answer")
        value = self.scalar(column)
        if value is None:
            return None
        if choices is None:
            raise self.fail(column, "it has an answer but no choices")
        if value in self.labels:
            return self.labels.index(value)
        if value.lstrip("+-").isdecimal() and value.isascii():
            if len(value) > 9 or not 0 <= int(value) < len(choices):
                raise self.fail(column, f"{value:.20} is not an index of {len(choices)} choices (from 0)")
            return int(value)
        stripped = [choice.strip() for choice in choices]
        if value not in stripped and len(value) == 1 and 0 <= "ABCDEFGHIJ".find(value) < len(choices):
            return "ABCDEFGHIJ".index(value)
        if stripped.count(value) != 1:
            raise self.fail(column, f"{value!r:.60} is neither an index (from 0) nor one of the choices")
        return stripped.index(value)

    def messages(self) -> tuple[tuple[str, str], ...] | None:
        column = self.column("messages")
        value = self.cells.get(column)
        if value is None or value == "":
            column, value = self.chat_in_text()
        if value is None:
            return None
        if isinstance(value, str):
            value = self.json(column, value)
        if not isinstance(value, list | tuple) or not value:
            raise self.fail(column, "must be a list of messages")
        return tuple(self._message(column, number, item) for number, item in enumerate(value, 1))

    def chat_in_text(self) -> tuple[str, Any]:
        """A text column that holds a list of messages, as the files of trainers do."""
        column = self.column("text")
        value = self.cells.get(column)
        if not isinstance(value, list | tuple) or not value or not isinstance(value[0], Mapping):
            return column, None
        del self.cells[column]
        return column, value

    def _message(self, column: str, number: int, item: Any) -> tuple[str, str]:
        role = item.get("role") if isinstance(item, Mapping) else None
        content = item.get("content") if isinstance(item, Mapping) else None
        if isinstance(content, list | tuple):
            content = self._joined(column, number, content)
        if not (isinstance(role, str) and role.strip() and isinstance(content, str)):
            raise self.fail(column, f"message {number} needs a role and a content, both text")
        return self.clean(column, role), self.clean(column, content)

    def _joined(self, column: str, number: int, parts: list[Any] | tuple[Any, ...]) -> str:
        """The text of a message in parts; images, sound and the like are refused by name."""
        texts = []
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in ("text", "input_text", "output_text"):
                raise self.fail(
                    column, f"message {number} has a part of type {str(kind)[:30]!r}: only text can be traced"
                )
            if not isinstance(part.get("text"), str):
                raise self.fail(column, f"message {number} has a text part without text")
            texts.append(part["text"])
        return "\n".join(texts)

    def json(self, column: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.fail(column, f"not JSON: {error}") from None

    def tags(self) -> dict[str, str]:
        tags: dict[str, str] = {}
        for column, value in self.cells.items():
            if column in self.used or value == "":
                continue
            if column == "tags":
                tags |= self._tag_map(value)
            else:
                tags[self.clean(column, column)] = self.clean(column, _as_tag(value))
        return tags

    def _tag_map(self, value: Any) -> dict[str, str]:
        """A column called `tags` may hold a map (as a trace's own prompts table does); else it is one tag."""
        if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            value = dict(value)
        pairs = value if isinstance(value, Mapping) else {"tags": value}
        return {
            self.clean("tags", str(name)): self.clean("tags", _as_tag(item))
            for name, item in pairs.items()
            if not _missing(item) and item != ""
        }


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays, as data frames give them, as plain Python."""
    return value.tolist() if type(value).__module__ == "numpy" else value


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _labelled(value: Mapping[str, Any]) -> tuple[list[str], Any]:
    """Labels and texts of choices that come as {text: [...], label: [...]}."""
    texts, labels = value.get("text"), value.get("label")
    same = isinstance(texts, list) and isinstance(labels, list) and len(labels) == len(texts)
    return ([str(label) for label in labels or ()] if same else []), texts


def _is_choice(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _as_tag(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):
        return str(value)
