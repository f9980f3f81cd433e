"""Prompt files of seven formats → rows of (place, cells by column); knows nothing of what a column means."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...store.foreign.delimited import RowError, delimiter_hint, records
from ...store.foreign.parquet import PROMPTS, UNREADABLE, TooMuch, column_names, rows_within
from ...store.json_object import NamedTwice, object_once
from . import sheet
from .prompt import PromptSetError

Row = tuple[str, Mapping[str, Any]]

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".txt": "txt", ".text": "txt",
    ".xlsx": "sheet", ".ods": "sheet",
}  # fmt: skip

_DELIMITERS = {"csv": ",", "tsv": "\t"}

_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def read_rows(
    path: Path,
    format: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    *,
    index: str | None = None,
) -> Iterator[Row]:
    """Yields the rows of a prompt file in order.

    Args:
        index: name for a table's first column where it has none; such a table is refused where None.
    Raises:
        PromptSetError: the file is missing, of an unknown kind, not UTF-8, or malformed.
    """
    kind = format or FORMATS.get(path.suffix.lower())
    if kind is None or kind not in FORMATS.values():
        known = ", ".join(sorted(set(FORMATS.values())))
        raise PromptSetError(
            f"{path.name}: unknown kind of prompt set {kind or path.suffix!r} (known: {known})"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptSetError(f"{path}: cannot be read: {error.strerror or error}") from None
    if kind == "parquet":
        return _parquet_rows(data, path.name)
    if kind == "sheet":
        return _checked(sheet.records(sheet.sheet_of(data, path.name)[1]), path.name, index)
    delimiter = delimiter or _DELIMITERS.get(kind)
    text = decoded(data, path.name, delimiter, encoding)
    if kind == "txt":
        return _text_rows(text, path.name)
    if kind == "json":
        return cells_of_objects(_json_objects(text, path.name), path.name)
    if kind == "jsonl":
        return _jsonl_rows(text, path.name)
    assert delimiter is not None
    return _table_rows(text, path.name, delimiter, index)


def cells_of_objects(objects: Iterable[Any], name: str) -> Iterator[Row]:
    """Rows from mappings or plain texts that stand in a JSON list or in Python."""
    if isinstance(objects, str | bytes | Mapping):
        raise PromptSetError(f"{name}: expected a list of prompts, found {_kind(objects)}")
    for number, item in enumerate(objects, 1):
        yield f"row {number}", _cells(item, f"{name}, row {number}")


def _cells(item: Any, where: str) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if not isinstance(item, Mapping):
        raise PromptSetError(f"{where}: expected an object with columns or a text, found {_kind(item)}")
    if not all(isinstance(column, str) for column in item):
        raise PromptSetError(f"{where}: column names must be text")
    return item


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def decoded(data: bytes, name: str, delimiter: str | None = None, encoding: str = "utf-8") -> str:
    """Text of a file. Raises PromptSetError that names the place of the first byte that is not text."""
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError) as error:
            raise PromptSetError(f"{name}: can't be read as {encoding}: {error}") from None
    for bom, encoding in _OTHER_ENCODINGS:
        if data.startswith(bom):
            raise PromptSetError(f"{name}: is {encoding} encoded; save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    if data[:400:2].count(0) + data[1:400:2].count(0) > len(data[:400]) // 4:
        raise PromptSetError(f"{name}: looks like UTF-16 or binary data, not UTF-8 text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        place = f"line {line}"
        if delimiter is not None:
            place = _cell_at_end(data[: error.start].decode() + "?", name, delimiter, line)
        raise PromptSetError(
            f"{name}, {place}, byte {byte}: 0x{data[error.start]:02X} is not UTF-8; save it as UTF-8"
        ) from None


def _cell_at_end(text: str, name: str, delimiter: str, line: int) -> str:
    """Row and column of the cell in which a part of a table ends."""
    try:
        (_, header), *rows = records(text, delimiter)
    except RowError:
        return f"line {line}"
    if not rows:
        return f"header (line {line}), column {len(header)}"
    number = len(rows[-1][1])
    column = repr(header[number - 1].strip()) if number <= len(header) else number
    return f"row {len(rows)} (line {line}), column {column}"


def _lines(text: str) -> list[str]:
    """Physical lines, without the empty ones at the end; only newlines end a line, not U+2028."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _text_rows(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), 1):
        yield f"line {number}", {"text": line}


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=object_once)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if error.lineno > 1 or "line" not in where else ""
        lines = "line" not in where and error.msg == "Extra data"
        hint = ": a file of one object a line is called .jsonl" if lines else ""
        raise PromptSetError(
            f"{where}{place}, character {error.colno}: not JSON: {error.msg}{hint}"
        ) from None
    except RecursionError:
        raise PromptSetError(f"{where}: nested too deeply") from None
    except NamedTwice as error:
        raise PromptSetError(f"{where}: an object names {error.name!r} twice") from None
    except ValueError as error:
        raise PromptSetError(f"{where}: not JSON: {error}") from None


def _json_objects(text: str, name: str) -> list[Any]:
    value = _parse_json(text, name)
    if isinstance(value, dict) and isinstance(value.get("prompts"), list):
        value = value["prompts"]
    if not isinstance(value, list):
        raise PromptSetError(f"{name}: expected a list of prompts, found {_kind(value)}")
    return value


def _jsonl_rows(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), 1):
        where = f"{name}, line {number}"
        if not line.strip():
            raise PromptSetError(f"{where}: empty row")
        yield f"line {number}", _cells(_parse_json(line, where), where)


def _table_rows(text: str, name: str, delimiter: str, index: str | None) -> Iterator[Row]:
    return _checked(_records(text, name, delimiter), name, index, text, delimiter)


def _checked(
    rows: Iterator[tuple[int, list[str]]], name: str, index: str | None, text: str = "", delimiter: str = ""
) -> Iterator[Row]:
    """Rows of a table under its header; `text` and `delimiter` for hints where it was cut wrongly."""
    try:
        header = [column.strip() for column in next(rows)[1]]
    except StopIteration:
        raise PromptSetError(f"{name}: the file is empty") from None
    if index is not None and header[0] == "" and index not in header:
        header[0] = index
    _check_header(header, name)
    hint = delimiter_hint(text, delimiter) if text else ""
    if hint and len(header) == 1:
        raise PromptSetError(
            f"{name}, row 1 (line 2): no column 'text' (columns: {header[0]!r:.100}); is the delimiter right? "
            f"{hint[2:].capitalize()}"
        )
    blank: str | None = None
    for number, (line, record) in enumerate(rows, 1):
        place = f"row {number} (line {line})"
        if not record:
            blank = blank or place
            continue
        if blank or not any(cell.strip() for cell in record):  # only at the end is a blank line no mistake
            raise PromptSetError(f"{name}, {blank or place}: empty row")
        if len(record) != len(header):
            raise PromptSetError(f"{name}, {place}: {_ragged(len(record), header)}{hint}")
        yield place, dict(zip(header, record, strict=True))


def _ragged(cells: int, header: list[str]) -> str:
    odd = (
        f"column {header[cells]!r} has no cell"
        if cells < len(header)
        else f"cell {len(header) + 1} has no column"
    )
    return f"has {cells} columns, the header has {len(header)}: {odd}"


def _records(text: str, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for line, cells in records(text, delimiter):
            yield line, cells
            number += 1
    except RowError as error:
        place = f"row {number} (line {error.line})" if number else f"header (line {error.line})"
        raise PromptSetError(f"{name}, {place}: {error}") from None


def _check_header(header: list[str], name: str) -> None:
    for number, column in enumerate(header, 1):
        if not column:
            index = " (pandas writes its index like this: to_csv(..., index=False))" if number == 1 else ""
            raise PromptSetError(f"{name}, header: column {number} has no name{index}")
        if header.count(column) > 1:
            raise PromptSetError(f"{name}, header: column {column!r} occurs twice")


def _parquet_rows(data: bytes, name: str) -> Iterator[Row]:
    number = 0
    try:
        _check_header(column_names(io.BytesIO(data)), name)
        for rows in rows_within(io.BytesIO(data), len(data), PROMPTS):
            for row in rows:
                number += 1
                yield f"row {number}", row
    except PromptSetError:
        raise
    except TooMuch as error:
        raise PromptSetError(f"{name}: {error}") from None
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f", rows from {number + 1}: unreadable cell" if number else ": not a readable Parquet file"
        raise PromptSetError(f"{name}{where}: {reason}") from None
