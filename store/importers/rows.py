"""Rows of CSV, TSV, JSONL and Parquet files, with their numbers; what can't be read is refused with file and row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ImportRefused

_FIELD_BYTES = 1 << 27


def numbered_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows from 1 (the header of a CSV file does not count), by the file's suffix.

    Raises:
        ImportRefused: not there, of an unknown kind, or unreadable; the message names file and row.
    """
    readers = {
        ".csv": _separated,
        ".tsv": _separated,
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


def _separated(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_FIELD_BYTES)
    lines = read_text(path).splitlines(keepends=True)
    reader = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    number = 0
    try:
        header = next(reader, None)
        if header is None:
            raise ImportRefused(f"{path.name} is empty")
        if len(set(header)) < len(header):
            raise ImportRefused(f"{path.name}: two columns have the same name")
        for number, cells in enumerate(reader, start=1):
            if not cells:
                continue
            if len(cells) != len(header):
                raise ImportRefused(
                    f"{path.name}, row {number}: it has {len(cells)} cells, the header {len(header)}"
                )
            yield (
                number,
                {name: None if cell == "" else cell for name, cell in zip(header, cells, strict=True)},
            )
    except csv.Error as error:
        raise ImportRefused(f"{path.name}, row {number + 1}: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL file."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ImportRefused(f"{path.name}, row {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise ImportRefused(f"{path.name}, row {number}: not a JSON object")
        yield number, row


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(65536):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise ImportRefused(f"{path.name}, after row {number}: {error}") from error
