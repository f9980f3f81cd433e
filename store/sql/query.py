"""One read-only SELECT over a trace, with limits on time, rows and memory.

    run_query(trace, "SELECT expert, count(*) FROM selections WHERE layer = 3 GROUP BY expert")

The statement runs in a separate process (`worker.py`), which is kept for the next one and killed when it
goes over a limit: whatever is typed, the caller gets a table or a one-line QueryRefused.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import BadArgument, QueryRefused
from ..files.layout import PROMPTS_FILE, ROLLUPS_FILE, TOKENS_FILE, events_schema
from ..files.manifest import TABLES
from .checked import check_footers, check_tables

if TYPE_CHECKING:
    from ..read.trace_rows import TraceRows

SECONDS = 30.0
ROWS = 10_000
MEMORY_MB = 1024
RESULT_BYTES = 256 << 20
MOST_SECONDS = 86_400
ROW_LIMITS = (1, 100_000_000)
MEMORY_LIMITS = (64, 1 << 20)
_GRACE_SECONDS = 2.0
_START_SECONDS = 120.0
_IO_THREADS = "16"
"""Requests at once for files behind a URL: each thread's stack counts as memory of the process."""
_DIED = "the query's process ended, probably for lack of memory"

TRUNCATED = b"moescope.truncated"
"""Key in the schema metadata of a result that was cut at the row limit; its value is the limit."""


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    seconds: float = SECONDS
    rows: int = ROWS
    memory_mb: int = MEMORY_MB
    threads: int = 2

    def __post_init__(self) -> None:
        for name, (low, high) in {"rows": ROW_LIMITS, "memory_mb": MEMORY_LIMITS}.items():
            value = getattr(self, name)
            if not (isinstance(value, Integral) and low <= value <= high):
                raise BadArgument(f"{name} is {value!r}; it takes a whole number from {low:,} to {high:,}")
        if not (isinstance(self.seconds, Real) and 0 < self.seconds <= MOST_SECONDS):
            raise BadArgument(
                f"seconds is {self.seconds!r}; it takes a number above 0, up to {MOST_SECONDS:,}"
            )


def run_query(
    trace: TraceRows,
    query: str,
    *,
    seconds: float = SECONDS,
    rows: int = ROWS,
    memory_mb: int = MEMORY_MB,
) -> pa.Table:
    """Run one SELECT over prompts, tokens, events, selections and rollups.

    Args:
        seconds: time limit; the statement is stopped then. Comparing files with their checksums before the first
            statement that reads them (`checked.py`) is not counted.
        rows: the result is cut there; its schema metadata then has `TRUNCATED`.
        memory_mb: memory limit of the statement.
    Raises:
        QueryRefused: not a single SELECT, a mistake in it, or over a limit. One line.
        BadArgument: a limit that is none.
        DamagedPart: a file that the query reads is not what was written; `Trace.sql` leaves it out instead.
    """
    limits = QueryLimits(seconds=seconds, rows=rows, memory_mb=memory_mb)
    if not trace.parts:
        why = "no part of the trace can be read" if trace.problems else "the trace has no committed part yet"
        raise QueryRefused(f"{why}: there is nothing to query")
    # Tables of earlier statements: looking at their files again is quicker than asking twice.
    known = [table for table in TABLES if trace.memo.find(("sql", table))]
    check_tables(trace, known)
    header, data = _ask(trace, query, limits, known)
    if header.get("kind") == "unchecked":
        check_tables(trace, header["tables"])
        for table in header["tables"]:
            trace.memo.get(("sql", table), lambda: (True,))
        header, data = _ask(trace, query, limits, header["tables"])
    return _table(header, data, limits)


def _ask(
    trace: TraceRows, query: str, limits: QueryLimits, checked: Sequence[str]
) -> tuple[dict[str, Any], bytes]:
    """Header and Arrow bytes. `checked` names the tables whose files may be read."""
    worker = _borrow(limits.memory_mb)
    try:
        header, data = worker.ask(_request(trace, query, limits, checked), limits.seconds)
    except BaseException:
        worker.kill()
        raise
    _give_back(worker)
    return header, data


def _table(header: dict[str, Any], data: bytes, limits: QueryLimits) -> pa.Table:
    if not header["ok"]:
        raise QueryRefused(_reason(header, limits))
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        table = stream.read_all()
    if header["cut"]:
        table = table.replace_schema_metadata({TRUNCATED: str(limits.rows).encode()})
    return table


def view_columns(trace: TraceRows) -> dict[str, list[tuple[str, str]]]:
    """Name and DuckDB type of the columns of each view, for the schema beside an SQL editor."""
    from .guard import VIEWS

    if not trace.parts:
        return {}
    check_footers(trace, TABLES)
    found, limits = {}, QueryLimits()
    for name in VIEWS:
        query = f"SELECT column_name, column_type FROM (DESCRIBE {name})"
        described = _table(*_ask(trace, query, limits, TABLES), limits)
        pairs = zip(*(described[column].to_pylist() for column in described.column_names), strict=True)
        found[name] = [(column, kind) for column, kind in pairs]
    return found


def _request(trace: TraceRows, query: str, limits: QueryLimits, checked: Sequence[str]) -> dict[str, Any]:
    schemas = {
        "prompts": PROMPTS_FILE,
        "tokens": TOKENS_FILE,
        "events": events_schema(trace.routers, trace.manifest.capture),
        "rollups": ROLLUPS_FILE,
    }
    root = trace.folder.local_path
    paths = {table: [entry.path(table) for entry in trace.parts] for table in TABLES}
    if root is not None:
        paths = {table: [str(root / path) for path in found] for table, found in paths.items()}
    return {
        "query": query,
        "checked": list(checked),
        "files": paths,
        "url": None if root is not None else trace.url,
        "bytes": {table: [entry.files[table].bytes for entry in trace.parts] for table in TABLES},
        "columns": {table: schema.names for table, schema in schemas.items()},
        "schemas": {table: schema.serialize().to_pybytes().hex() for table, schema in schemas.items()},
        "seconds": limits.seconds,
        "rows": limits.rows,
        "memory_mb": limits.memory_mb,
        "threads": limits.threads,
    }


def _reason(header: dict[str, Any], limits: QueryLimits) -> str:
    if header["kind"] == "time":
        return f"the query was stopped after {limits.seconds:g} s, the time limit"
    if header["kind"] == "memory":
        return f"the query needs more than {limits.memory_mb:,} MB of memory, the limit"
    return header["message"].split("\n\n", 1)[0].split("\nLINE ", 1)[0]


class Worker:
    """A process that answers one statement after another."""

    def __init__(self, memory_mb: int):
        self.memory_mb = memory_mb
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "moescope.store.sql.worker", str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"ARROW_IO_THREADS": _IO_THREADS} | os.environ,
        )
        self._pending = bytearray()
        if self._line(time.monotonic() + _START_SECONDS, _START_SECONDS) != b"ready":
            self.kill()
            raise QueryRefused("the SQL process could not be started")

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for the answer; the process is done for where this raises."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise QueryRefused(_DIED) from None
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        header = json.loads(self._line(deadline, seconds))
        size = header.get("bytes", 0)
        if size > RESULT_BYTES:
            raise QueryRefused(
                f"the result is larger than {RESULT_BYTES >> 20} MB: ask for fewer columns or rows"
            )
        while len(self._pending) < size:
            self._pending += self._read(deadline, seconds)
        data, self._pending = bytes(self._pending[:size]), self._pending[size:]
        return header, data

    def _line(self, deadline: float, seconds: float) -> bytes:
        while b"\n" not in self._pending:
            self._pending += self._read(deadline, seconds)
        line, _, rest = self._pending.partition(b"\n")
        self._pending = rest
        return bytes(line)

    def _read(self, deadline: float, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise QueryRefused(f"the query was stopped after {seconds:g} s, the time limit")
        piece = os.read(descriptor, 1 << 20)
        if not piece:
            raise QueryRefused(_DIED)
        return piece

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


_idle: list[Worker] = []
_idle_lock = threading.Lock()
_MOST_IDLE = 2


def _borrow(memory_mb: int) -> Worker:
    with _idle_lock:
        for worker in [w for w in _idle if w.memory_mb == memory_mb]:
            _idle.remove(worker)
            if worker.alive:
                return worker
    return Worker(memory_mb)


def _give_back(worker: Worker) -> None:
    with _idle_lock:
        if len(_idle) < _MOST_IDLE:
            _idle.append(worker)
            return
    worker.kill()
