"""What is exported says what the trace says, in every format."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts_by_hand import record

from moescope.store import StoreError, Trace, TraceWriter, export, open_trace
from moescope.store.export import export_trace
from moescope.store.tables import csv_bytes, json_rows, unescape_cell


@pytest.fixture
def varied(tmp_path: Path) -> Trace:
    """Several routers, varying k, tags, line breaks and formulas in the text."""
    recorded = record(21, parts=3)
    with TraceWriter(
        tmp_path / "varied", routers=recorded.routers, model={}, prompt_set={}, settings={}
    ) as out:
        for part in recorded.parts:
            out.write(part)
        out.finish()
    return open_trace(tmp_path / "varied")


@pytest.fixture(params=[1, 1 << 22], ids=["row group by row group", "part by part"])
def piece_bytes(request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PIECE_BYTES", request.param)


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda r: json.dumps(r, sort_keys=True, default=str))


def selections_of(trace: Trace) -> list[dict]:
    return [
        {name: event[name] for name in ("prompt_id", "position", "layer", "stream")}
        | {"slot": slot, "expert": expert, "weight": weight}
        for event in trace.events().to_pylist()
        for slot, (expert, weight) in enumerate(zip(event["experts"], event["weights"], strict=True))
    ]


def test_duckdb_file(varied: Trace, tmp_path: Path) -> None:
    told = []
    path = export_trace(varied, tmp_path / "out.duckdb", "duckdb", progress=lambda *at: told.append(at))
    steps = 4 * len(varied.parts)
    assert told == sorted(told)
    assert {at[0] for at in told} >= set(range(len(varied.parts), steps + 1))
    assert told[-1] == (steps, steps)
    with duckdb.connect(str(path), read_only=True) as connection:
        for table in ("prompts", "tokens", "events"):
            expected = getattr(varied, table)().to_pylist()
            found = connection.sql(f"SELECT * FROM {table}").to_arrow_table().to_pylist()
            assert in_order(found) == in_order(expected)
        found = connection.sql("SELECT * FROM selections").to_arrow_table().to_pylist()
        assert in_order(found) == in_order(selections_of(varied))
        total = connection.sql("SELECT sum(list_sum(count)) FROM rollups").fetchall()[0][0]
        assert total == len(selections_of(varied))
        manifest = json.loads(connection.sql("SELECT manifest FROM trace").fetchall()[0][0])
    assert len(manifest["routers"]) == len(varied.routers)


def test_parquet_folder(varied: Trace, tmp_path: Path, piece_bytes: None) -> None:
    path = export_trace(varied, tmp_path / "out", "parquet")
    assert sorted(p.name for p in path.iterdir()) == [
        "events.parquet",
        "prompts.parquet",
        "rollups.parquet",
        "tokens.parquet",
        "trace.json",
    ]
    for table in ("prompts", "tokens", "events"):
        assert pq.read_table(path / f"{table}.parquet").to_pylist() == getattr(varied, table)().to_pylist()


def test_jsonl_folder_of_some_prompts(varied: Trace, tmp_path: Path, piece_bytes: None) -> None:
    where = {"group": ["a"]}
    path = export_trace(varied, tmp_path / "out", "jsonl", where=where)
    lines = (path / "events.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == varied.events(where=where).to_pylist()
    prompts = [json.loads(line) for line in (path / "prompts.jsonl").read_text().split("\n")[:-1]]
    assert prompts == json_rows(varied.prompts(where))
    assert {p["group"] for p in prompts} == {"a"}


def test_csv_folder_reads_back(varied: Trace, tmp_path: Path) -> None:
    path = export_trace(varied, tmp_path / "out", "csv")
    with (path / "prompts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    prompts = varied.prompts().to_pylist()
    for row, prompt in zip(rows, prompts, strict=True):
        assert unescape_cell(row["text"]) == prompt["text"]
        assert row["colour"] == dict(prompt["tags"]).get("colour", "")
        assert not row["text"].startswith("=")
    with (path / "selections.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [
        row
        | {name: int(row[name]) for name in ("position", "layer", "slot", "expert")}
        | {"prompt_id": unescape_cell(row["prompt_id"]), "weight": float(row["weight"])}
        for row in rows
    ]
    assert in_order(found) == in_order(selections_of(varied))


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8), min_size=1
    )
)
def test_no_csv_cell_is_a_formula_and_nothing_is_lost(texts: list[str]) -> None:
    content = csv_bytes(pa.table({"text": texts, "number": list(range(len(texts)))})).decode()
    import io

    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert [unescape_cell(row[0]) for row in rows[1:]] == texts
    assert all(not row[0].startswith(tuple("=+-@\t\r＝＋－＠")) for row in rows)


def test_a_header_can_not_be_a_formula_either() -> None:
    assert csv_bytes(pa.table({"=cmd()": [1]})).decode().splitlines()[0] == '"\'=cmd()"'


def test_exports_never_overwrite_and_leave_nothing_when_they_fail(
    varied: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="is there already"):
        export_trace(varied, tmp_path / "there", "csv")
    with pytest.raises(StoreError, match="no export format"):
        export_trace(varied, tmp_path / "x", "xlsx")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moescope.store.export.pq.ParquetWriter", full)
    with pytest.raises(StoreError, match="the disk is full"):
        export_trace(varied, tmp_path / "x", "parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there", "varied"]


def test_what_killed_exports_left_goes_with_the_next_one(varied: Trace, tmp_path: Path) -> None:
    dead, alive = tmp_path / ".out.exporting-dead", tmp_path / ".out.exporting-alive"
    file = tmp_path / ".out.exporting-file"
    others = tmp_path / ".other.exporting-dead"
    for folder in (dead, alive, others):
        folder.mkdir()
        (folder / "prompts.csv").touch()
    file.touch()
    file.with_name(file.name + ".wal").touch()
    for path in (
        dead / "prompts.csv",
        dead,
        file,
        file.with_name(file.name + ".wal"),
        others / "prompts.csv",
        others,
    ):
        os.utime(path, (0, 0))
    os.utime(alive, (0, 0))  # its table is still being written
    export_trace(varied, tmp_path / "out", "csv")
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, others.name, "out", "varied"}


def test_an_empty_trace_exports_its_columns(tmp_path: Path) -> None:
    recorded = record(3)
    TraceWriter(tmp_path / "t", routers=recorded.routers, model={}, prompt_set={}, settings={}).close()
    trace = open_trace(tmp_path / "t")
    for number, kind in enumerate(("duckdb", "parquet", "csv", "jsonl")):
        assert export_trace(trace, tmp_path / str(number), kind).exists()
    assert (tmp_path / "2" / "tokens.csv").read_text().startswith('"prompt_id","position","token_id"')
