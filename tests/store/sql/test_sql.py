"""SQL sees what Python sees."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from parts_by_hand import record

from moescope.store import Trace, TraceWriter, open_trace
from moescope.store.errors import QueryRefused
from moescope.store.sql.query import TRUNCATED, view_columns
from moescope.store.trace import DamageWarning


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    recorded = record(21, parts=3)
    path = tmp_path_factory.mktemp("sql") / "varied"
    with TraceWriter(path, routers=recorded.routers, model={}, prompt_set={}, settings={}) as out:
        for part in recorded.parts:
            out.write(part)
    return open_trace(path)


def test_the_views_hold_what_python_reads(varied: Trace) -> None:
    for table in ("prompts", "tokens", "events"):
        found = varied.sql(f"SELECT * FROM {table}").to_pylist()
        expected = getattr(varied, table)().to_pylist()
        assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_selections_are_events_spread_out(varied: Trace) -> None:
    expected = Counter(
        (e["layer"], e["stream"], slot, expert, weight)
        for e in varied.events().to_pylist()
        for slot, (expert, weight) in enumerate(zip(e["experts"], e["weights"], strict=True))
    )
    rows = varied.sql(
        "SELECT layer, stream, slot, expert, weight, count(*) AS n FROM selections GROUP BY ALL"
    )
    assert {tuple(row.values())[:-1]: row["n"] for row in rows.to_pylist()} == expected


def test_rollups_add_up_to_the_selections(varied: Trace) -> None:
    rolled = varied.sql(
        "SELECT layer, stream, i - 1 AS expert, sum(count[i])::BIGINT AS n FROM "
        "(SELECT layer, stream, count, unnest(range(1, len(count) + 1)) AS i FROM rollups) GROUP BY ALL HAVING n > 0"
    )
    counted = varied.sql("SELECT layer, stream, expert, count(*) AS n FROM selections GROUP BY ALL")
    key = ("layer", "stream", "expert", "n")
    a, b = ({tuple(row[k] for k in key) for row in table.to_pylist()} for table in (rolled, counted))
    assert a == b


def test_tags_and_joins(varied: Trace) -> None:
    rows = varied.sql(
        "SELECT tags['colour'] AS colour, count(*) AS n FROM events JOIN prompts USING (prompt_id) GROUP BY 1"
    )
    colours = {p["prompt_id"]: dict(p["tags"]).get("colour") for p in varied.prompts().to_pylist()}
    assert {r["colour"]: r["n"] for r in rows.to_pylist()} == Counter(
        colours[e["prompt_id"]] for e in varied.events().to_pylist()
    )


def test_the_row_limit_is_told(shared_trace: Trace) -> None:
    cut = shared_trace.sql("SELECT * FROM selections", rows=10)
    assert cut.num_rows == 10
    assert cut.schema.metadata == {TRUNCATED: b"10"}
    whole = shared_trace.sql("SELECT * FROM prompts", rows=shared_trace.num_prompts)
    assert whole.schema.metadata is None


def test_describe_and_the_schema_beside_the_editor(varied: Trace) -> None:
    columns = view_columns(varied)
    assert list(columns) == ["prompts", "tokens", "events", "selections", "rollups"]
    assert ("prompt_id", "VARCHAR") in columns["events"]
    assert ("expert", "INTEGER") in columns["selections"]


def test_a_trace_that_goes_on_is_asked_as_far_as_it_is(tmp_path: Path) -> None:
    from moescope.store.write.synthetic import Synthetic, synthetic_parts

    plan = Synthetic(prompts=8, tokens_per_prompt=6, part_tokens=20)
    with TraceWriter(tmp_path / "t", routers=plan.routers(), model={}, prompt_set={}, settings={}) as out:
        parts = synthetic_parts(plan)
        out.write(next(parts))
        trace = open_trace(tmp_path / "t")
        before = trace.sql("SELECT count(*) AS n FROM prompts").to_pylist()[0]["n"]
        assert before == trace.num_prompts
        for part in parts:
            out.write(part)
        assert trace.sql("SELECT count(*) AS n FROM prompts").to_pylist()[0]["n"] == before
        assert trace.refresh()
        assert trace.sql("SELECT count(*) AS n FROM prompts").to_pylist() == [{"n": 8}]
        assert not trace.refresh()


def test_the_time_limit_holds(shared_trace: Trace) -> None:
    shared_trace.sql("SELECT 1", memory_mb=200)
    started = time.monotonic()
    with pytest.raises(QueryRefused, match=r"stopped after 0\.5 s"):
        shared_trace.sql("SELECT count(*) FROM range(1000000000000)", seconds=0.5, memory_mb=200)
    assert time.monotonic() - started < 30


def test_sql_over_a_remote_folder(shared_trace: Trace, shared_trace_path: Path) -> None:
    """`local://` is a file system of fsspec, so this takes the way of every remote folder."""
    remote = open_trace(f"local://{shared_trace_path}")
    assert remote.folder.local_path is None
    query = "SELECT layer, expert, count(*) AS n, sum(weight) AS w FROM selections GROUP BY ALL ORDER BY ALL"
    assert remote.sql(query).equals(shared_trace.sql(query))
    with pytest.raises(QueryRefused):
        remote.sql("SELECT * FROM read_text('/etc/passwd')")
    with pytest.raises(QueryRefused, match="no table _prompts"):
        remote.sql("SELECT * FROM _prompts")


@pytest.mark.parametrize(
    ("table", "column"), [("events", "weights"), ("rollups", "count"), ("tokens", "position")]
)
def test_a_silently_flipped_byte_leaves_the_part_out_and_never_becomes_a_number(
    own_trace_path: Path, table: str, column: str
) -> None:
    query = f"SELECT sum(len({column}))" if column != "position" else "SELECT sum(position)"
    query += f"::BIGINT AS n, hash(list({column} ORDER BY {column})) AS h FROM {table} WHERE prompt_id IN "
    flipped = open_trace(own_trace_path)
    entry = flipped.parts[1]
    kept = flipped.prompts()["prompt_id"].to_pylist()
    del kept[entry.first_prompt : entry.first_prompt + entry.prompts]
    query += str(tuple(kept))
    expected = flipped.sql(query)
    path = own_trace_path / entry.path(table)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flipped = open_trace(own_trace_path)
        assert not flipped.problems
        assert flipped.sql(query).equals(expected)
        assert flipped.sql("SELECT count(*) AS n FROM prompts").to_pylist() == [{"n": len(kept)}]
    assert [problem.part for problem in flipped.problems] == [entry.name]
    assert entry.path(table) in str(caught[0].message)
    assert "its checksum is" in str(caught[0].message)


@pytest.mark.filterwarnings("ignore::moescope.store.trace.DamageWarning")
def test_a_trace_whose_every_part_is_damaged_is_not_called_unfinished(own_trace_path: Path) -> None:
    trace = open_trace(own_trace_path)
    for entry in trace.parts:
        path = own_trace_path / entry.path("events")
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    with pytest.raises(QueryRefused, match="no part of the trace can be read"):
        open_trace(own_trace_path).sql("SELECT count(*) FROM events")


def test_only_the_tables_that_a_query_reads_are_checked(own_trace_path: Path) -> None:
    path = own_trace_path / "events" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    trace = open_trace(own_trace_path)
    before = trace.num_prompts
    assert trace.sql("SELECT count(*) AS n FROM tokens JOIN prompts USING (prompt_id)")["n"][0].as_py()
    assert view_columns(trace)
    assert (trace.num_prompts, trace.problems) == (before, [])
    with pytest.warns(DamageWarning):
        trace.sql("SELECT max(weight) FROM selections")
    assert trace.num_prompts < before


def test_a_flipped_byte_of_a_remote_file_is_an_error_not_a_number(own_trace_path: Path) -> None:
    path = own_trace_path / "events" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(QueryRefused, match=r"(?i)crc"):
        open_trace(f"local://{own_trace_path}").sql(
            "SELECT sum(weight), sum(expert), sum(position) FROM selections"
        )
