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
    if any(is_kind(kind) for is_kind in _AS_TEXT):
        return _text(column)
    return column


_AS_TEXT = (pa.types.is_nested, pa.types.is_interval, pa.types.is_binary, pa.types.is_large_binary)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as text: nested values as JSON."""
    values = (plain(value, column.type) for value in column.to_pylist())
    if pa.types.is_nested(column.type):
        values = (None if value is None else json.dumps(value, ensure_ascii=False) for value in values)
    return pa.chunked_array([pa.array(list(values), pa.string())])


def storable(table: pa.Table) -> pa.Table:
    """The table with columns that Parquet can hold: intervals become text."""
    for at, field in enumerate(table.schema):
        if "interval" in str(field.type):
            table = table.set_column(at, field.name, _text(table.column(at)))
    return table


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
    """Rows as JSON can hold them: maps become objects, NaN and infinities null, bytes hexadecimal, times text."""
    columns = [[plain(value, column.type) for value in column.to_pylist()] for column in table.columns]
    rows = zip(*columns, strict=True) if columns else ()
    return [dict(zip(table.column_names, row, strict=True)) for row in rows]


def plain(value: Any, kind: pa.DataType) -> Any:
    """A value of Arrow, as `to_pylist` gives it, as JSON can hold it."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if pa.types.is_map(kind):
        return {str(key): plain(item, kind.item_type) for key, item in value}
    if pa.types.is_struct(kind):
        return {field.name: plain(value[field.name], field.type) for field in kind}
    if isinstance(value, list):
        return [plain(item, kind.value_type) for item in value]
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _interval(value: pa.MonthDayNano) -> str:
    """As `1 month 2 days 3.5 seconds`."""
    amounts = (("month", value.months), ("day", value.days), ("second", value.nanoseconds / 1e9))
    parts = [f"{many:g} {name}{'' if many == 1 else 's'}" for name, many in amounts if many]
    return " ".join(parts) or "0 seconds"
