"""Tables of Excel (`.xlsx`) and of LibreOffice (`.ods`): the first sheet that holds something, as rows of text."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

from .prompt import PromptSetError

UNPACKED = 1 << 29
"""Bytes that the parts of such a file, which is a zip, may have together."""


def sheet_of(data: bytes, name: str) -> tuple[str, list[list[Any]]]:
    """Name and cells of the first sheet that is not empty.

    Raises:
        PromptSetError: it is no such file, or its parts are beyond UNPACKED.
    """
    from python_calamine import CalamineError, load_workbook

    try:
        size = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > UNPACKED:
            raise PromptSetError(f"{name}: unpacks to {size:,} bytes; at most {UNPACKED:,} are read")
        book = load_workbook(io.BytesIO(data))
        for sheet in book.sheet_names:
            if cells := book.get_sheet_by_name(sheet).to_python(skip_empty_area=False):
                return sheet, cells
    except (CalamineError, zipfile.BadZipFile, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PromptSetError(f"{name}: not a readable sheet: {reason}") from None
    raise PromptSetError(f"{name}: the file is empty")


def records(cells: list[list[Any]]) -> Iterator[tuple[int, list[str]]]:
    """Yields (row of the sheet from 1, its cells as text), without columns that are empty in all rows."""
    rows = [[_text(cell) for cell in row] for row in cells]
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows)]
    for number, row in enumerate(rows, 1):
        kept = [row[column] for column in used]
        yield number, kept if any(kept) else []


def _text(cell: Any) -> str:
    """A cell as it would stand in a CSV file: whole numbers without a decimal point, dates as ISO 8601."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)
