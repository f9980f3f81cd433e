"""A trace in other people's formats: one DuckDB file, or a folder of Parquet, CSV or JSONL tables.

Tables: prompts (every tag a column of its own in CSV), tokens, events (one row for each token and layer), in CSV
`selections` instead (one row for each chosen expert, as a spreadsheet has no lists), and rollups. What is
written appears under its name when it is whole; a large trace streams through, some MB at a time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .arrow import pc
from .errors import StoreError, plain_os_errors
from .files.entries import PartEntry
from .files.footers import read_footer, row_groups
from .files.layout import ROLLUPS_FILE, TOKENS_FILE, events_schema
from .files.tables import read_table
from .read.passes import in_advance
from .read.selection import Where
from .read.trace_rows import of_prompts
from .tables import csv_bytes, json_rows
from .trace import Trace

FORMATS = ("duckdb", "parquet", "csv", "jsonl")
CSV_TABLES = ("prompts", "tokens", "selections")
TABLES = ("prompts", "tokens", "events", "rollups")
Progress = Callable[[int, int], None]
EXPORTING = ".exporting-"
_PIECE_BYTES = 4 << 20
"""Of a file, decoded and written at a time: a part of a trace on an object store would be gigabytes as rows of CSV."""
_DECODED = 4
"""Bytes in memory for each of those, about."""
_FOOTER_BYTES = 1 << 16
LEFT_SECONDS = 3600
"""An export that was not written to for so long was killed."""


def export_trace(
    trace: Trace,
    out: str | os.PathLike[str],
    format: str,
    *,
    where: Where | None = None,
    spreadsheet_safe: bool = True,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write a trace, or some of its prompts, in another format.

    Args:
        out: a file for duckdb, a folder for the others; must not be there yet.
        where: prompts to take.
        spreadsheet_safe: see `tables.py`; for csv only.
        progress: told how many files of the trace are read, and of how many.
    Returns:
        The path that was written.
    Raises:
        StoreError: unknown format, something is at `out`, or it can't be written; nothing is left then.
    """
    if format not in FORMATS:
        raise StoreError(f"there is no export format {format!r}; there are: {', '.join(FORMATS)}")
    target = Path(out)
    if target.exists():
        raise StoreError(f"{target} is there already: choose another name")
    temporary = target.with_name(f".{target.name}{EXPORTING}{uuid.uuid4().hex[:8]}")
    try:
        with plain_os_errors(f"{target}: can't be written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target)
            if format == "duckdb":
                _duckdb(trace, temporary, where, progress)
            else:
                temporary.mkdir()
                _folder(trace, temporary, format, where, spreadsheet_safe, progress)
            os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    return target


def _remove_leftovers(target: Path) -> None:
    """What killed exports to this name left: they had no time to do it themselves."""
    for path in target.parent.glob(f".{glob.escape(target.name)}{EXPORTING}*"):
        if path.suffix in (".wal", ".tmp"):  # DuckDB's, which go with the file
            continue
        written = [path, path.with_name(f"{path.name}.wal"), *(path.iterdir() if path.is_dir() else ())]
        with contextlib.suppress(OSError):  # another process may be removing it too
            if max(file.stat().st_mtime for file in written if file.exists()) < time.time() - LEFT_SECONDS:
                _remove(path)


def _remove(temporary: Path) -> None:
    """What a failed export leaves, with the log and the folder that DuckDB keeps beside its file."""
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        return
    for path in (temporary, temporary.with_name(f"{temporary.name}.wal")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    shutil.rmtree(temporary.with_name(f"{temporary.name}.tmp"), ignore_errors=True)


def _told(
    trace: Trace, tables: Sequence[str], where: Where | None, progress: Progress
) -> Iterator[tuple[str, Iterator[pa.Table]]]:
    """Each table with its pieces; tells each file that was read."""
    parts = max(len(trace.parts), 1)

    def counted(place: int, table: str) -> Iterator[pa.Table]:
        for done, piece in _pieces(trace, table, where):
            yield piece
            progress(place * parts + done, len(tables) * parts)

    for place, table in enumerate(tables):
        yield table, counted(place, table)
        progress((place + 1) * parts, len(tables) * parts)


def _pieces(trace: Trace, table: str, where: Where | None) -> Iterator[tuple[int, pa.Table]]:
    """Rows of a table with prompt_id, some MB of a part at a time, and how many parts are done before them; at least
    one (empty) piece, for its columns."""
    if table == "prompts":
        yield 0, trace.prompts(where)
        return
    if table == "selections":
        for done, piece in _pieces(trace, "events", where):
            yield done, selections(piece)
        return
    schema = {
        "tokens": TOKENS_FILE,
        "events": events_schema(trace.routers, trace.manifest.capture),
        "rollups": ROLLUPS_FILE,
    }[table]
    keys = trace.wanted_keys(where=where)

    def read(stretch: _Stretch) -> tuple[int, pa.Table]:
        piece = read_table(
            trace.folder, stretch.entry, table, schema.names, groups=stretch.groups, threads=False
        )
        return stretch.done, _shown(trace, of_prompts(piece, keys))

    yield 0, _shown(trace, schema.empty_table())
    yield from in_advance(trace, _stretches(trace, table, keys), read, _DECODED * _PIECE_BYTES)


class _Stretch(NamedTuple):
    """Row groups of a part that are read together."""

    done: int
    """Parts before it."""
    entry: PartEntry
    groups: list[int]


def _stretches(trace: Trace, table: str, keys: np.ndarray | None) -> Iterator[_Stretch]:
    parts = trace.parts_with(keys)

    def found(number: int) -> list[_Stretch]:
        entry = parts[number]
        groups = [group.number for group in row_groups(trace.folder, entry, table, None, keys)]
        each = entry.files[table].bytes // max(
            1, read_footer(trace.folder, entry, table).metadata.num_row_groups
        )
        step = max(1, _PIECE_BYTES // max(1, each))
        return [
            _Stretch(number, entry, groups[first : first + step]) for first in range(0, len(groups), step)
        ]

    for stretches in in_advance(trace, range(len(parts)), found, _FOOTER_BYTES):
        yield from stretches


def _shown(trace: Trace, piece: pa.Table) -> pa.Table:
    for at, column in enumerate(piece.schema):
        if pa.types.is_dictionary(column.type):
            piece = piece.set_column(at, column.name, piece[column.name].cast(pa.string()))
    return trace.with_ids(piece)


def selections(events: pa.Table) -> pa.Table:
    """One row for each chosen expert: prompt_id, position, layer, stream, slot, expert, weight."""
    events = events.combine_chunks()
    experts = events["experts"].combine_chunks()
    lengths = np.asarray(pc.list_value_length(experts).fill_null(0))
    parents = pa.array(np.repeat(np.arange(len(events)), lengths))
    rows = events.select(["prompt_id", "position", "layer", "stream"]).take(parents)
    # For each of the S selections the flat index at which its event begins, (S,): the slot is the distance from it.
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = rows.append_column("slot", pa.array((np.arange(len(starts)) - starts).astype(np.int32)))
    rows = rows.append_column("expert", pc.list_flatten(experts).cast(pa.int32()))
    if "weights" not in events.column_names:
        return rows.append_column("weight", pa.nulls(len(rows), pa.float32()))
    weights = events["weights"].combine_chunks()
    if not weights.null_count:
        return rows.append_column("weight", pc.list_flatten(weights))
    # Events without weights are null lists, which `list_flatten` drops: put the others back at their (S,).
    known = np.repeat(np.asarray(weights.is_valid()), lengths)
    spread = np.full(len(rows), np.nan, np.float32)
    spread[known] = np.asarray(pc.list_flatten(weights))
    return rows.append_column("weight", pa.array(spread, mask=~known))


def _tags_as_columns(prompts: pa.Table, names: list[str]) -> pa.Table:
    for name in names:
        column = pc.map_lookup(prompts["tags"].combine_chunks(), pa.scalar(name), "first")
        prompts = prompts.append_column(name if name not in prompts.column_names else f"tag {name}", column)
    return prompts.drop_columns(["tags"])


def _folder(
    trace: Trace, folder: Path, format: str, where: Where | None, spreadsheet_safe: bool, progress: Progress
) -> None:
    manifest = json.dumps(trace.manifest.to_json() | {"parts": [], "checksum": None}, indent=1)
    (folder / "trace.json").write_text(manifest)
    for table, found in _told(trace, CSV_TABLES if format == "csv" else TABLES, where, progress):
        path = folder / f"{table}.{format}"
        if format == "parquet":
            _parquet(path, found)
        elif format == "jsonl":
            _jsonl(path, found)
        else:
            if table == "prompts":
                found = (_tags_as_columns(piece, trace.tag_names()) for piece in found)
            _csv(path, found, spreadsheet_safe)


def _parquet(path: Path, found: Iterator[pa.Table]) -> None:
    first = next(found)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for piece in found:
            writer.write_table(piece.cast(first.schema))


def _jsonl(path: Path, found: Iterator[pa.Table]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for piece in found:
            for row in json_rows(piece):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _csv(path: Path, found: Iterator[pa.Table], spreadsheet_safe: bool) -> None:
    with path.open("wb") as file:
        for number, piece in enumerate(found):
            if number == 0 or len(piece):
                file.write(csv_bytes(piece, spreadsheet_safe=spreadsheet_safe, header=number == 0))


def _duckdb(trace: Trace, path: Path, where: Where | None, progress: Progress) -> None:
    import duckdb

    try:
        with duckdb.connect(str(path)) as connection:
            for table, found in _told(trace, TABLES, where, progress):
                for number, piece in enumerate(found):
                    connection.register("_piece", piece)
                    begin = f"CREATE TABLE {table} AS" if number == 0 else f"INSERT INTO {table}"
                    connection.execute(f"{begin} SELECT * FROM _piece")
                    connection.unregister("_piece")
            weight = "unnest(weights)" if "weights" in trace.manifest.capture else "NULL::FLOAT"
            connection.execute(
                "CREATE VIEW selections AS SELECT prompt_id, position, layer, stream, "
                "unnest(range(len(experts)))::INTEGER AS slot, unnest(experts)::INTEGER AS expert, "
                f"{weight} AS weight FROM events"
            )
            manifest = json.dumps(trace.manifest.to_json() | {"parts": [], "checksum": None})
            connection.execute("CREATE TABLE trace AS SELECT $m::JSON AS manifest", {"m": manifest})
    except duckdb.Error as error:
        raise StoreError(f"{path}: {str(error).splitlines()[0]}") from error
