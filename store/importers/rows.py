"""Rows of CSV, TSV, JSON, JSONL and Parquet files, numbered; what can't be read is refused with file and row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ImportRefused
from ..foreign.delimited import RowError, delimiter_hint, records
from ..foreign.parquet import ROUTING, UNREADABLE, TooMuch, rows_within
from ..json_object import object_once

Row = tuple[int, dict[str, Any]]


def numbered_rows(path: Path) -> Iterator[Row]:
    """Rows from 1 (the header of a CSV file does not count), by the file's suffix.

    Raises:
        ImportRefused: not there, of an unknown kind, or unreadable; the message names file and row.
    """
    readers = {
        ".csv": _separated,
        ".tsv": _separated,
        ".json": _json_list,
        ".jsonl": json_lines,
        ".ndjson": json_lines,
        ".parquet": _parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ImportRefused(f"{path.name}: a file of this kind can't be read; {', '.join(readers)} can")
    try:
        yield from reader(path)
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except OSError as error:
        raise ImportRefused(f"{path.name} can't be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise ImportRefused(f"{path.name}, line {row}: this is not UTF-8 text") from None


def _separated(path: Path) -> Iterator[Row]:
    text = read_text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = records(text, delimiter)
    number = 0
    try:
        header = next((cells for _, cells in rows), None)
        if header is None:
            raise ImportRefused(f"{path.name} is empty")
        _check_header(path.name, header, text, delimiter)
        for number, (_, cells) in enumerate(rows, start=1):
            if not cells:
                continue
            if len(cells) != len(header):
                raise ImportRefused(
                    f"{path.name}, row {number}: it has {len(cells)} cells, the header {len(header)}"
                )
            named = zip(header, cells, strict=True)
            yield number, {name: None if cell == "" else cell for name, cell in named}
    except RowError as error:
        raise ImportRefused(f"{path.name}, row {number + 1}: {error}") from error


def _check_header(name: str, header: list[str], text: str, delimiter: str) -> None:
    if len(header) == 1 and (hint := delimiter_hint(text, delimiter)):
        raise ImportRefused(f"{name}: the header is one cell{hint}")
    if len(set(header)) < len(header):
        raise ImportRefused(f"{name}: two columns have the same name")
    if "" in header:
        index = " (pandas writes its index like this: to_csv(..., index=False))" if header[0] == "" else ""
        raise ImportRefused(f"{name}: column {header.index('') + 1} has no name: leave it out{index}")


def json_lines(path: Path) -> Iterator[Row]:
    """Objects of a JSONL file."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, _object(_parsed(line, f"{path.name}, row {number}"), f"{path.name}, row {number}")


def _json_list(path: Path) -> Iterator[Row]:
    """Objects of a JSON list, or one object."""
    found = _parsed(read_text(path), path.name)
    for number, row in enumerate(found if isinstance(found, list) else [found], start=1):
        yield number, _object(row, f"{path.name}, row {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=object_once)
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines()[0]
        hint = ": a file of one object a line is called .jsonl" if said.startswith("Extra data") else ""
        raise ImportRefused(f"{where}: not valid JSON: {said}{hint}") from error


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ImportRefused(f"{where}: not a JSON object")
    return row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        for rows in rows_within(path, path.stat().st_size, ROUTING):
            for row in rows:
                number += 1
                yield number, row
    except FileNotFoundError:
        raise
    except TooMuch as error:
        raise ImportRefused(f"{path.name}: {error}") from error
    except UNREADABLE as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ImportRefused(f"{path.name}, after row {number}: {said}") from error
