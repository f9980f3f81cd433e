"""Prompts and steerings as the server reads them: plain values of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..prompts.prompt import Prompt

Event = dict[str, Any]
Prompts = Sequence[Any]


def as_profile(steering: Any) -> Any:
    """The JSON of a steering as plain values: a `Steering`, a mapping, JSON text, or None."""
    data = steering.to_json() if hasattr(steering, "to_json") else steering
    return json.loads(data) if isinstance(data, str) else data


def rows_of(prompts: Prompts) -> list[Any]:
    """Prompts as the server reads them: texts, mappings, or the rows of a `PromptSet`."""
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list of prompts, not one string")
    return [_row(prompt) if isinstance(prompt, Prompt) else prompt for prompt in prompts]


def _row(prompt: Prompt) -> Event:
    row: Event = {
        name: getattr(prompt, name) for name in Prompt.__slots__ if name not in ("tags", "messages")
    }
    row |= {"messages": prompt.chat} if prompt.messages else {}
    return {**prompt.tags, **{name: value for name, value in row.items() if value is not None}}


def asked(prompt: str | None, messages: Sequence[Mapping[str, str]] | None) -> Event:
    body: Event = {} if prompt is None else {"prompt": prompt}
    return body if messages is None else body | {"messages": [dict(turn) for turn in messages]}
