"""Tables as CSV and JSON that others can open: text shown literally, nothing lost.

Spreadsheets run a cell that begins with = + - @ (or their full-width forms, a tab or a carriage return) as a formula.
Such text gets an apostrophe in front, and so does text that begins with an apostrophe: to get the original back,
take one leading apostrophe off every text cell that has one (`unescape_cell`). Numbers are never touched.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from .arrow import pc

_DANGEROUS = "^[=+\\-@\t\r\n'＝＋－＠]"


def csv_ready(table: pa.Table, *, spreadsheet_safe: bool = True) -> pa.Table:
    """The table with columns that CSV can hold: lists and maps become JSON text, dictionaries plain text.

    Args:
        spreadsheet_safe: put an apostrophe before text that a spreadsheet would run.
    """
    columns = [_flat(table[name]) for name in table.column_names]
    if spreadsheet_safe:
        columns = [escape_cells(c) if pa.types.is_string(c.type) else c for c in columns]
    return pa.table(columns, names=[escape_name(name) for name in table.column_names])


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_map(kind):
        texts = [None if v is None else json.dumps(dict(v), ensure_ascii=False) for v in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_nested(kind):
        texts = [None if v is None else json.dumps(_json(v), ensure_ascii=False) for v in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return column


def escape_cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text with an apostrophe before what a spreadsheet would run."""
    dangerous = pc.match_substring_regex(column, _DANGEROUS)
    return pc.if_else(dangerous, pc.binary_join_element_wise("'", column, ""), column)


def escape_name(name: str) -> str:
    return pc.if_else(pc.match_substring_regex(name, _DANGEROUS), "'" + name, name).as_py()


def unescape_cell(text: str) -> str:
    """The original of a text cell that `csv_ready` wrote."""
    return text[1:] if text.startswith("'") else text


def csv_bytes(table: pa.Table, *, spreadsheet_safe: bool = True, header: bool = True) -> bytes:
    """UTF-8 CSV: text in quotes, numbers bare, null as an empty cell without quotes."""
    sink = io.BytesIO()
    options = pa_csv.WriteOptions(include_header=header)
    pa_csv.write_csv(csv_ready(table, spreadsheet_safe=spreadsheet_safe), sink, options)
    return sink.getvalue()


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: maps become objects, NaN and infinities null."""
    maps = [name for name in table.column_names if pa.types.is_map(table.schema.field(name).type)]
    rows = table.to_pylist()
    for row in rows:
        for name in maps:
            row[name] = None if row[name] is None else dict(row[name])
    return [{name: _json(value) for name, value in row.items()} for row in rows]


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _json(item) for name, item in value.items()}
    return value
