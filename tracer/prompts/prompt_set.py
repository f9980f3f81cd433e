"""A prompt set: what a model is run on, checked before any model is loaded.

Reading a file has two steps, each in its own module: `prompts_read` turns bytes into named cells and knows
in which row and line they stood; `prompts_check` turns the cells of one row into a `Prompt`.
docs/prompt-sets.md describes the columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class PromptSetError(ValueError):
    """A prompt set that cannot be read; the one-line message names file, row and column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One row of a prompt set."""

    id: str
    text: str
    """What the model reads; where only `messages` were given, their contents on lines of their own."""
    language: str | None = None
    """BCP 47 tag, as the user wrote it."""
    group: str | None = None
    parallel_id: str | None = None
    """Joins translations of one text."""
    completion: str | None = None
    """Teacher-forced directly after the text, without a space in between."""
    choices: tuple[str, ...] | None = None
    """Possible continuations, each read directly after the text."""
    answer: int | None = None
    """Index of the right choice, from 0."""
    messages: tuple[tuple[str, str], ...] | None = None
    """A chat as (role, content) pairs."""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def chat(self) -> list[dict[str, str]]:
        """The chat that a template is applied to: `messages`, or the text as one user message."""
        turns = self.messages or (("user", self.text),)
        return [{"role": role, "content": content} for role, content in turns]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in _plain(self).items() if value}


@dataclass(frozen=True)
class PromptSet(Sequence[Prompt]):
    """An ordered collection of prompts with unique ids; see `of` for what else it may be made from."""

    prompts: tuple[Prompt, ...]
    name: str = "prompts"
    """File name, or whatever the maker called it."""

    @classmethod
    def of(cls, prompts: PromptSet | str | os.PathLike[str] | Iterable[Mapping[str, Any] | str]) -> PromptSet:
        """A prompt set as it is, the one in a file, or one of rows."""
        if isinstance(prompts, PromptSet):
            return prompts
        if isinstance(prompts, str | os.PathLike):
            return cls.from_file(os.fspath(prompts))
        return cls.from_rows(prompts)

    @classmethod
    def from_file(cls, path: str | Path, *, format: str | None = None) -> PromptSet:
        """Reads CSV, TSV, JSON, JSONL, Parquet or plain text (one prompt a line).

        Args:
            format: `csv`, `tsv`, `json`, `jsonl`, `parquet` or `txt`; taken from the file's name if left out.
        Raises:
            PromptSetError: with the file, row and column of the first thing that is wrong.
        """
        from .read import read_rows

        path = Path(path)
        return cls.from_cells(read_rows(path, format), name=path.name)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any] | str], *, name: str = "rows") -> PromptSet:
        """Makes a prompt set of mappings with the columns of a prompt file, or of plain texts."""
        from .read import cells_of_objects

        return cls.from_cells(cells_of_objects(rows, name), name=name)

    @classmethod
    def from_cells(cls, rows: Iterable[tuple[str, Mapping[str, Any]]], *, name: str) -> PromptSet:
        """Checks rows of (place in the file, cells by column) and makes the prompts."""
        from .check import check_rows

        return cls(tuple(check_rows(rows, name)), name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every prompt in order; the name of the file plays no part."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(json.dumps(prompt.to_json(), sort_keys=True, ensure_ascii=False).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    @property
    def tag_names(self) -> list[str]:
        return sorted({name for prompt in self.prompts for name in prompt.tags})

    @property
    def languages(self) -> list[str]:
        return sorted({prompt.language for prompt in self.prompts if prompt.language})

    def limit(self, count: int | None) -> PromptSet:
        """The first `count` prompts; all of them for None."""
        return self if count is None else PromptSet(self.prompts[:count], self.name)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __getitem__(self, index: Any) -> Any:
        return self.prompts[index]


def _plain(prompt: Prompt) -> dict[str, Any]:
    fields = {name: getattr(prompt, name) for name in Prompt.__slots__}
    return {**fields, "answer": None if prompt.answer is None else [prompt.answer]}
