"""Tables that a reader uploads: a score or a class for each language."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field

from ....store import StoreError

MISSING = ("", None)


@dataclass(frozen=True, kw_only=True)
class LanguageTable:
    """Columns of an uploaded table, by name: language → number, or language → word."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Columns that hold numbers only."""
    classes: dict[str, dict[str, str]] = field(default_factory=dict)
    """All other columns."""


def read_table(data: bytes) -> LanguageTable:
    """A CSV with a column `language` and any other columns.

    Raises:
        StoreError: not UTF-8, no such column, a language twice, or nothing beside it; says the row.
    """
    rows = _rows(data)
    columns = [name for name in rows[0] if name and name != "language"]
    if "language" not in rows[0] or not columns:
        raise StoreError("the file needs a column language and one of scores or classes")
    cells: dict[str, dict[str, str]] = {name: {} for name in columns}
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        language = (row["language"] or "").strip()
        if not language or language in seen:
            problem = f"{language!r} occurs twice" if language else "no language"
            raise StoreError(f"row {number}: {problem}")
        seen.add(language)
        for name in columns:
            if row[name] not in MISSING:
                cells[name][language] = row[name].strip()
    scores = {name: found for name, values in cells.items() if (found := _numbers(name, values)) is not None}
    return LanguageTable(
        scores=scores, classes={name: values for name, values in cells.items() if name not in scores}
    )


def _rows(data: bytes) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"the file is not CSV in UTF-8: {error}") from None
    if not rows:
        raise StoreError("the file has no rows")
    return rows


def _numbers(name: str, values: dict[str, str]) -> dict[str, float] | None:
    """The column as numbers; None where it holds words. A `score` must be numbers."""
    found: dict[str, float] = {}
    for language, value in values.items():
        try:
            found[language] = float(value)
        except ValueError:
            if name == "score":
                raise StoreError(f"{language}: the score {value!r} is no number") from None
            return None
    return found or None
