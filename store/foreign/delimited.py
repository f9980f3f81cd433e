"""CSV and TSV by their own definitions, and what a file's first lines say of its delimiter.

CSV (RFC 4180): cells may stand in quotation marks and then hold delimiters and line ends. TSV (IANA
text/tab-separated-values): a cell ends at a tab, a row at a line end, and a quotation mark is a character like any
other, unless every name of the header stands in them; by CSV's rules a row would swallow its neighbours. In both
a row ends at CR, LF or CRLF only: U+2028, U+0085 and form feeds are text.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator

DELIMITERS = (",", "\t", ";", "|")
NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
LONGEST_FIELD = 1 << 27
_LINE_END = re.compile(r"\r\n|\n|\r")


class RowError(ValueError):
    """A row that can't be cut into cells; `line` is where it begins, from 1."""

    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.line = line


def records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line where the row begins, cells); an empty line has no cells.

    Raises:
        RowError: quotation marks that don't fit (CSV only).
    """
    literal = delimiter == "\t" and not _quoted_header(text)
    return _tab_separated(text) if literal else _quoted(text, delimiter)


def _quoted_header(text: str) -> bool:
    """Whether every name in the first line stands in quotation marks: no column is called that, so the file was
    written by CSV's rules with tabs."""
    first = _LINE_END.split(text, maxsplit=1)[0].split("\t")
    return all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in first)


def _tab_separated(text: str) -> Iterator[tuple[int, list[str]]]:
    lines = _LINE_END.split(text)
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield number, line.split("\t") if line else []


def _quoted(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        # The limit is one for the whole process: it is put back, so that other readers keep theirs.
        limit = csv.field_size_limit(LONGEST_FIELD)
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            open_end = "a quotation mark opens a cell that never ends"
            raise RowError(
                open_end if str(error) == "unexpected end of data" else str(error), start
            ) from None
        finally:
            csv.field_size_limit(limit)
        yield start, record


def likely_delimiter(text: str) -> str | None:
    """The delimiter that cuts the first lines into equally many cells, more than one; None where none does."""
    best: tuple[float, int, str] | None = None
    for mark in DELIMITERS:
        try:
            widths = [
                len(cells) for _, (_, cells) in zip(range(20), records(text, mark), strict=False) if cells
            ]
        except RowError:
            continue
        if not widths or widths[0] < 2:
            continue
        same = Counter(widths)[widths[0]] / len(widths)
        if best is None or (same, widths[0]) > best[:2]:
            best = same, widths[0], mark
    return None if best is None else best[2]


def delimiter_hint(text: str, delimiter: str) -> str:
    """What to say of a table that another delimiter cuts better; empty where none does."""
    found = likely_delimiter(text)
    return (
        ""
        if found in (None, delimiter)
        else f"; the cells seem to be separated by {NAMES[found]}s ({found!r})"
    )
