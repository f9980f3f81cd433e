"""One prompt, and the error of a prompt set that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import LONGEST


class PromptSetError(ValueError):
    """A prompt set that cannot be read; the one-line message names file, row and column."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]} ...")


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


def _plain(prompt: Prompt) -> dict[str, Any]:
    fields = {name: getattr(prompt, name) for name in Prompt.__slots__}
    return {**fields, "answer": None if prompt.answer is None else [prompt.answer]}
