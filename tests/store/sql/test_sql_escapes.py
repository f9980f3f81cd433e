"""Every way out of the SQL page that we could think of ends as a one-line message, and nothing happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moescope.store import StoreError, Trace
from moescope.store.errors import QueryRefused

MARK = "/tmp/moescope-escape"

READS = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/*.parquet')",
    "SELECT * FROM parquet_scan('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
    "WITH a AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM a",
    "SELECT * FROM events, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "SELECT exists(FROM glob('/root/*'))",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT getenv('HOME')",
    "SELECT current_setting('allowed_paths')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM sqlite_master",
    "WITH pg_settings AS (SELECT 1) SELECT * FROM pg_settings",
    "SELECT * FROM (WITH pg_settings AS (SELECT 1) SELECT 1), pg_settings",
    "WITH pg_settings AS (SELECT * FROM pg_settings) SELECT * FROM pg_settings",
    "WITH RECURSIVE pg_settings AS (SELECT * FROM pg_settings) SELECT * FROM pg_settings",
    "WITH a AS (WITH duckdb_logs AS (SELECT 1) SELECT 1) SELECT * FROM duckdb_logs",
    "WITH x AS (SELECT * FROM PG_CLASS), Pg_Class AS (SELECT 1) SELECT * FROM x",
    "SELECT * FROM (WITH sqlite_master AS (SELECT 1) SELECT 1) a, (SELECT * FROM sqlite_master) b",
    "SELECT (WITH pragma_database_list AS (SELECT 1) SELECT 1), * FROM pragma_database_list",
    "SELECT * FROM (WITH \"/etc/passwd\" AS (SELECT 1) SELECT 1), '/etc/passwd'",
    'SELECT * FROM (WITH "duckdb_settings()" AS (SELECT 1) SELECT 1), duckdb_settings()',
    "SELECT * FROM (WITH duckdb_settings AS (SELECT 1) SELECT 1), duckdb_settings()",
    "SELECT * FROM (WITH _events AS (SELECT 1) SELECT 1), _events",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "SUMMARIZE '/etc/passwd'",
    "DESCRIBE '/etc/passwd'",
]

WRITES = [
    f"COPY prompts TO '{MARK}.csv'",
    f"COPY (SELECT 1) TO '{MARK}.parquet' (FORMAT parquet)",
    "COPY prompts TO PROGRAM 'touch /tmp/moescope-escape.program'",
    f"EXPORT DATABASE '{MARK}'",
    f"IMPORT DATABASE '{MARK}'",
    f"ATTACH '{MARK}.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "USE other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL sqlite",
    "SET memory_limit = '100GB'",
    "SET enable_external_access = true",
    "RESET ALL",
    "SET lock_configuration = false",
    "PRAGMA enable_profiling",
    f"PRAGMA profiling_output = '{MARK}.json'",
    "CALL pragma_version()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW events AS SELECT 1",
    "CREATE MACRO f(x) AS x",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "DROP VIEW events",
    "INSERT INTO prompts VALUES (1)",
    "UPDATE prompts SET text = ''",
    "DELETE FROM prompts",
    "TRUNCATE prompts",
    "ALTER VIEW events RENAME TO x",
    "BEGIN TRANSACTION",
    "CHECKPOINT",
    "VACUUM",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "SET VARIABLE x = 1",
    "SELECT write_log('x')",
    "SELECT 1; COPY prompts TO '/tmp/moescope-escape.csv'",
    "SELECT 1; SELECT 2",
    "EXPLAIN ANALYZE SELECT 1",
]

MISTAKES = [
    "",
    "   ;  ",
    "SELEC 1",
    "SELECT",
    "SELECT nothing FROM events",
    "SELECT * FROM prompts; -- and then\n;;DROP VIEW prompts",
    "SELECT '\x00'",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT " + "+".join("1" * 60_000),
    "SELECT 1 " * 20_000,
    "SELECT $1",
    "SELECT error('<b>no</b>')",
    "SELECT 1/0::INTEGER, 'x'::INTEGER",
    "SELECT 'ab\ud800'",
]

TOO_MUCH = [
    "SELECT count(*) FROM selections a, selections b, selections c, selections d",
    "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(l) AS (SELECT [1] UNION ALL SELECT list_concat(l, l) FROM t) SELECT len(l) FROM t",
    "SELECT len(range(2000000000))",
    "SELECT list(i) FROM range(100000) t(i), range(100000)",
    "SELECT count(*) FROM generate_series(1, 1000000000000)",
    "SELECT rpad('x', 1900000000, 'y')",
    "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000))",
    "SELECT string_agg(repeat('x', 1000), '') FROM range(1000000)",
    "SELECT repeat('x', 400000) FROM range(1000)",
]


def _refused(trace: Trace, query: str) -> str:
    with pytest.raises(QueryRefused) as caught:
        trace.sql(query, seconds=1.0, memory_mb=256)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("query", READS)
def test_reading_anything_but_the_trace_is_refused(shared_trace: Trace, query: str) -> None:
    message = _refused(shared_trace, query)
    assert "root:" not in message


@pytest.mark.parametrize("query", WRITES)
def test_statements_that_change_anything_are_refused(shared_trace: Trace, query: str) -> None:
    before = set(os.listdir("/tmp"))
    _refused(shared_trace, query)
    assert not {name for name in set(os.listdir("/tmp")) - before if name.startswith("moescope-escape")}


@pytest.mark.parametrize("query", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_one_line(shared_trace: Trace, query: str) -> None:
    _refused(shared_trace, query)


@pytest.mark.parametrize("query", TOO_MUCH)
def test_what_takes_too_much_is_stopped_and_the_next_query_works(shared_trace: Trace, query: str) -> None:
    _refused(shared_trace, query)
    answer = shared_trace.sql("SELECT count(*) AS n FROM prompts", memory_mb=256)
    assert answer.to_pylist() == [{"n": shared_trace.num_prompts}]


def test_the_database_itself_refuses_what_the_parser_would_let_through(shared_trace: Trace) -> None:
    """The second lock, tried without the first."""
    import duckdb

    from moescope.store.sql.query import QueryLimits, _request
    from moescope.store.sql.worker import locked_connection, show_tables

    request = _request(shared_trace, "", QueryLimits(), [])
    with locked_connection(request) as connection:
        show_tables(connection, request, ["prompts", "events"])
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(shared_trace.num_events,)]
        for query in [*READS[:14], *WRITES[:6], "INSTALL httpfs", "SET enable_external_access = true"]:
            with pytest.raises(duckdb.Error):
                connection.execute(query).fetchall()


def test_the_process_can_write_no_file(tmp_path: Path) -> None:
    """The third lock, tried without the others."""
    import subprocess
    import sys

    code = (
        "import os; from moescope.store.sql.worker import limit_process; limit_process(1 << 28)\n"
        f"os.write(os.open({str(tmp_path / 'x')!r}, os.O_CREAT | os.O_WRONLY), b'x' * 10)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


def test_a_trace_without_parts_says_so(tmp_path: Path) -> None:
    from moescope.store import TraceWriter, open_trace
    from moescope.store.write.synthetic import Synthetic

    TraceWriter(tmp_path / "t", routers=Synthetic().routers(), model={}, prompt_set={}, settings={}).close()
    with pytest.raises(StoreError, match="no committed part"):
        open_trace(tmp_path / "t").sql("SELECT 1")
