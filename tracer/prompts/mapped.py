"""A prompt file read as its user says: encoding, delimiter, and which column is what.

What is chosen by hand goes before names: a column that is called `language` but was not chosen as it becomes a tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...store.amount import amount
from .check import ALIASES, LABELS
from .prompt_set import PromptSet
from .read import read_rows

ROLES = ("text", "id", *LABELS, "completion")
"""What a column can be chosen as; the rest keep the meaning that their names give them."""
INDEX = "row"
"""Name of a first column without one, as pandas writes its index."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read a file."""

    encoding: str = "utf-8"
    delimiter: str | None = None
    roles: Mapping[str, str | None] = field(default_factory=dict)
    """Role → the column that has it, None for none; a role that is not named goes by the columns' names."""


def read_mapped(path: Path, reading: Reading) -> PromptSet:
    """The prompt set in a file, read like this. Raises PromptSetError."""
    rows = read_rows(path, None, reading.delimiter, reading.encoding, index=INDEX)
    return PromptSet.from_cells(_renamed(rows, reading.roles), name=path.name)


def columns_of(path: Path, reading: Reading) -> list[str]:
    """The file's columns. Raises PromptSetError."""
    first = next(iter(read_rows(path, None, reading.delimiter, reading.encoding, index=INDEX)), None)
    return [] if first is None else list(first[1])


def _renamed(
    rows: Iterator[tuple[str, Mapping[str, Any]]], roles: Mapping[str, str | None]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows with each chosen column under the name of its role."""
    wanted = {column: role for role, column in roles.items() if column is not None}
    taken = {alias for role in roles for alias in ALIASES.get(role, (role,))}
    for place, cells in rows:
        named = {}
        for column, value in cells.items():
            free = f"{column}_column" if column.strip().lower() in taken else column
            named[wanted.get(column, free)] = value
        yield place, named


def counted(prompts: PromptSet) -> dict[str, str]:
    """What the prompts hold of each role, in numbers: `language` → `12 languages: de 82, en 82, ...`."""
    found = {}
    for role, noun in (("language", "language"), ("group", "group")):
        values = Counter(value for prompt in prompts if (value := getattr(prompt, role)))
        if values:
            shown = ", ".join(f"{value} {number:,}" for value, number in values.most_common(8))
            more = f" and {len(values) - 8} more" if len(values) > 8 else ""
            found[role] = f"{len(values):,} {noun if len(values) == 1 else noun + 's'}: {shown}{more}"
    texts = Counter(prompt.parallel_id for prompt in prompts if prompt.parallel_id)
    if texts:
        alone = sum(number == 1 for number in texts.values())
        most = max(texts.values())
        found["parallel_id"] = (
            f"{amount(len(texts), 'parallel text')} of up to {amount(most, 'prompt')}, {alone:,} without a partner"
        )
    return found
