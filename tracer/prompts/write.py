"""Writes a prompt set as a file that `PromptSet.from_file` reads back equal."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, TextIO

from .prompt import Prompt, PromptSetError
from .prompt_set import PromptSet

COLUMNS = ("id", "text", "language", "group", "parallel_id", "completion", "choices", "answer", "messages")


def write_prompts(prompts: PromptSet, path: str | Path) -> Path:
    """Writes CSV, TSV, JSONL or Parquet by the name's ending, with the columns that are in use.

    Raises:
        PromptSetError: another ending, or a file that cannot be written.
    """
    path = Path(path)
    rows = [_cells(prompt) for prompt in prompts]
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    columns += [name for name in prompts.tag_names if name not in columns]
    writers = {".csv": _write_table, ".tsv": _write_table, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise PromptSetError(f"{path.name}: can write {', '.join(writers)}, not {path.suffix!r}")
    try:
        writer(path, columns, rows)
    except OSError as error:
        raise PromptSetError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def _cells(prompt: Prompt) -> dict[str, Any]:
    cells: dict[str, Any] = {name: getattr(prompt, name) for name in COLUMNS}
    if prompt.choices:
        cells["choices"] = list(prompt.choices)
    if prompt.messages:
        cells["messages"] = prompt.chat
    return {**prompt.tags, **{name: value for name, value in cells.items() if value is not None}}


def _write_table(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = [columns, *([_as_text(row.get(name)) for name in columns] for row in rows)]
        if path.suffix.lower() == ".tsv":
            _write_tsv(file, table)
        else:
            csv.writer(file).writerows(table)


def _write_tsv(file: TextIO, table: list[list[Any]]) -> None:
    """TSV has no quotation marks. Where a cell holds what ends one, all are quoted, the header too: that is how the
    reader knows."""
    odd = any(mark in str(cell) for row in table for cell in row for mark in "\t\r\n")
    if odd or all(len(name) > 1 and name[0] == name[-1] == '"' for name in table[0]):
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(table)
    else:
        file.writelines("\t".join("" if c is None else str(c) for c in row) + "\n" for row in table)


def _as_text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _write_jsonl(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            cells = {name: row[name] for name in columns if name in row}
            file.write(json.dumps(cells, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
