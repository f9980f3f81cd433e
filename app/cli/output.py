"""Tables on the command line: aligned for people, JSON, CSV or Parquet for machines."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
from rich.cells import cell_len, set_cell_size

from ...store.files.whole import write_whole
from ...store.tables import json_rows, plain
from ..text.literal import visible
from ..text.words import amount

if TYPE_CHECKING:
    from ...store import Trace

FORMATS = ("table", "json", "csv", "parquet")
ENDINGS = {".json": "json", ".csv": "csv", ".parquet": "parquet"}


SECONDS = 2.0
"""Between two lines of progress."""


class Lines:
    """A line on stderr now and then, where it takes long: how many of a number of things are done."""

    def __init__(self, things: str) -> None:
        self._things, self._last, self._said = things, time.monotonic(), False

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= SECONDS or (done == total and self._said):
            self._last, self._said = time.monotonic(), True
            click.echo(f"{done:,}/{total:,} {self._things}", err=True)


def format_options(help: str) -> Callable[[Any], Any]:
    """`--format`, and `--json` for short, of a command that writes a table: the parameter `form`."""

    def add(command: Any) -> Any:
        command = click.option("--json", "form", flag_value="json", help="The same as --format json.")(
            command
        )
        return click.option("--format", "form", type=click.Choice(FORMATS), help=help)(command)

    return add


def open_with_warnings(trace: str) -> Trace:
    """The trace at a path or URL, or of that name in the library; what is damaged or NaN in it is said on stderr."""
    from ...store import open_trace, trace_address
    from ..text.nan_notice import nan_notice

    found = open_trace(trace_address(trace))
    for problem in found.problems:
        click.echo(f"warning: left out: {visible(str(problem))}", err=True)
    if said := nan_notice(found):
        click.echo(f"warning: {said}", err=True)
    return found


def write_table(table: pa.Table, form: str | None, out: Path | None) -> None:
    """Write a table to a file, or to stdout.

    Args:
        form: of FORMATS; by the file's ending, else `table`, where None.
    """
    form = form or (ENDINGS.get(out.suffix.lower()) if out else None) or "table"
    if out is None:
        if form == "parquet" and sys.stdout.isatty():
            raise click.UsageError("--format parquet needs --out FILE, or a pipe")
        click.echo(_bytes(table, form), nl=False)
        return
    write_whole(out, _bytes(table, form))
    click.echo(f"{amount(table.num_rows, 'row')} → {out}", err=True)


def _bytes(table: pa.Table, form: str) -> bytes:
    if form == "table":
        return as_text(table).encode()
    from .. import export

    if form == "json":
        rows = json_rows(export.unique_names(table))
        return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()
    # The byte order mark of the app's downloads is for spreadsheets; a script would take it for the first name.
    return export.to_csv(table).removeprefix(BOM_UTF8) if form == "csv" else export.to_parquet(table)


def json_ready(value: Any) -> Any:
    """Plain JSON values: NaN and infinities become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


def as_text(table: pa.Table, width: int = 60) -> str:
    """Columns aligned; numbers to the right; control characters shown as escapes; `width` the most of a column.

    Widths are those of a terminal, as rich counts them: a Chinese sign is two wide. rich's own tables would take
    four seconds for ten thousand rows.
    """
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = [_cell(plain(value, column.type), width) for value in column.to_pylist()]
        number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        name = _cell(name, width)  # a tag may be called by anything
        size = max(map(cell_len, [name, *cells]))
        spaces = [" " * (size - cell_len(cell)) for cell in [name, *cells]]
        columns.append(
            [
                space + cell if number else cell + space
                for space, cell in zip(spaces, [name, *cells], strict=True)
            ]
        )
    out = io.StringIO()
    for row in zip(*columns, strict=True):
        out.write("  ".join(row).rstrip() + "\n")
    return out.getvalue()


def _cell(value: Any, width: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return shown if cell_len(shown) <= width else set_cell_size(shown, width - 1).rstrip() + "…"
