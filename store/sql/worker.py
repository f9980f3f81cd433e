"""The process in which a user's SQL runs: `python -m moescope.store.sql.worker`, driven over pipes by
`query.py`.

DuckDB alone can't hold a hostile statement: an interrupt does not reach into a scalar function, and what
scalar functions allocate is not counted against its memory limit (`rpad('x', 1900000000, 'y')` takes minutes
and gigabytes). So statements run in a process of their own that has hard limits and can be killed.

Each request is a JSON line; each answer a JSON line, followed by as many bytes of Arrow IPC as it says.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from ..errors import QueryRefused
from .guard import check_query
from .views import create_views, files_source, remote_source, tables_behind

READY = b"ready\n"

HEADROOM_BYTES = 3 << 30
"""Address space beyond DuckDB's memory limit: code, thread stacks, the result and the allocators'
reserves."""


def limit_process(memory_bytes: int) -> None:
    """No file may be written, and no more memory taken, whatever the statement makes DuckDB do."""
    try:
        import resource
        import signal
    except ImportError:  # Windows: the time limit still holds
        return
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = memory_bytes + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def locked_connection(request: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that may read the files of the trace and can reach nothing else."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": str(request["threads"]),
            "memory_limit": f"{request['memory_mb']}MB",
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
    if request["url"] is None:
        paths = [path for table in request["files"].values() for path in table]
        connection.execute("SET allowed_paths = $paths", {"paths": paths})
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def show_tables(
    connection: duckdb.DuckDBPyConnection, request: dict[str, Any], tables: Iterable[str]
) -> None:
    """Create the views of these tables."""
    files = {table: request["files"][table] for table in tables}
    if request["url"] is None:
        sources = {table: files_source(paths) for table, paths in files.items()}
    else:
        sources = {
            table: remote_source(
                connection,
                request["url"],
                table,
                list(zip(paths, request["bytes"][table], strict=True)),
                _schema(request["schemas"][table]),
            )
            for table, paths in files.items()
        }
    create_views(connection, sources, request["columns"])


def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Run one statement; header and Arrow bytes. Nothing is run where it reads a table that is not yet
    `checked`: the header names those that it reads."""
    with locked_connection(request) as connection:
        timer = threading.Timer(request["seconds"], connection.interrupt)
        timer.start()
        try:
            tables = tables_behind(check_query(connection, request["query"]))
            if not set(tables) <= set(request["checked"]):
                return {"ok": False, "kind": "unchecked", "tables": tables}, b""
            show_tables(connection, request, tables)
            table = connection.sql(request["query"]).limit(request["rows"] + 1).to_arrow_table()
        finally:
            timer.cancel()
    cut = table.num_rows > request["rows"]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.slice(0, request["rows"]))
    data = sink.getvalue().to_pybytes()
    return {"ok": True, "cut": cut, "bytes": len(data)}, data


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    answers.write(READY)
    answers.flush()
    for line in requests:
        data = b""
        try:
            header, data = answer(json.loads(line))
        except QueryRefused as error:
            header = {"ok": False, "kind": "refused", "message": str(error)}
        except duckdb.InterruptException:
            header = {"ok": False, "kind": "time", "message": ""}
        except (duckdb.OutOfMemoryException, MemoryError, pa.ArrowMemoryError):
            header = {"ok": False, "kind": "memory", "message": ""}
        except (duckdb.Error, pa.ArrowException, OSError, ValueError, RuntimeError, RecursionError) as error:
            header = {"ok": False, "kind": "failed", "message": str(error)}
        answers.write(json.dumps(header).encode() + b"\n" + data)
        answers.flush()


def main() -> None:
    memory_mb = int(sys.argv[1])
    limit_process(memory_mb << 20)
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
