"""A prompt set: what a model is run on, checked before any model is loaded.

Reading a file has two steps, each in its own module: `read` turns bytes into named cells and knows
in which row and line they stood; `check` turns the cells of one row into a `Prompt`.
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

from .check import check_rows
from .layouts import Layouts
from .prompt import Prompt
from .read import cells_of_objects, read_rows


@dataclass(frozen=True)
class PromptSet(Sequence[Prompt]):
    """An ordered collection of prompts with unique ids; see `of` for what else it may be made from."""

    prompts: tuple[Prompt, ...]
    name: str = "prompts"
    """File name, or whatever the maker called it."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the reader took for what, to be told to the user."""

    @classmethod
    def of(cls, prompts: PromptSet | str | os.PathLike[str] | Iterable[Mapping[str, Any] | str]) -> PromptSet:
        """A prompt set as it is, the one in a file, or one of rows."""
        if isinstance(prompts, PromptSet):
            return prompts
        if isinstance(prompts, str | os.PathLike):
            return cls.from_file(os.fspath(prompts))
        return cls.from_rows(prompts)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        format: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> PromptSet:
        """Reads CSV, TSV, Excel, JSON, JSONL, Parquet or plain text (one prompt a line).

        Args:
            format: `csv`, `tsv`, `sheet`, `json`, `jsonl`, `parquet` or `txt`; taken from the file's name if left out.
            delimiter: of a table; a comma for `csv`, a tab for `tsv` if left out. `look.look_at` finds it out.
            encoding: of text; other than UTF-8 only on request.
        Raises:
            PromptSetError: with the file, row and column of the first thing that is wrong.
        """
        path = Path(path)
        return cls.from_cells(read_rows(path, format, delimiter, encoding), name=path.name)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any] | str], *, name: str = "rows") -> PromptSet:
        """Makes a prompt set of mappings with the columns of a prompt file, or of plain texts."""
        return cls.from_cells(cells_of_objects(rows, name), name=name)

    @classmethod
    def from_cells(cls, rows: Iterable[tuple[str, Mapping[str, Any]]], *, name: str) -> PromptSet:
        """Checks rows of (place in the file, cells by column) and makes the prompts."""
        layouts = Layouts(name)
        prompts = tuple(check_rows(layouts.rows(rows), name))
        return cls(prompts, name, layouts.notes)

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
        return self if count is None else PromptSet(self.prompts[:count], self.name, self.notes)

    def chosen(self, limit: int | None, shard: tuple[int, int] | None) -> PromptSet:
        """What a run with these options takes: of the first `limit` prompts, those of the shard (k, n)."""
        limited = self.limit(limit)
        return limited if shard is None else limited.shard(*shard)

    def shard(self, number: int, of: int) -> PromptSet:
        """Every `of`-th prompt from the `number`-th on (from 1): the shards 1 to `of` hold each prompt once."""
        return PromptSet(self.prompts[number - 1 :: of], self.name, self.notes)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __getitem__(self, index: Any) -> Any:
        return self.prompts[index]
