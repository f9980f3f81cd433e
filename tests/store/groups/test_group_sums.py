"""Sums by group give what the events give, are used only while they are of the trace's parts, and are few to read."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from object_server import serving
from parts_by_hand import Recorded, record

from moescope.app.cli.commands import run
from moescope.store import StoreError, Trace, TraceWriter, open_trace
from moescope.store.errors import UnknownColumn
from moescope.store.files import footers, tables
from moescope.store.files.group_list import LIST_NAME
from moescope.store.files.lock import acquire_lock
from moescope.store.groups import cells as group_cells
from moescope.store.groups.sums import write_group_sums
from moescope.store.read.trace_parts import DamageWarning
from moescope.store.read.trace_rows import TraceRows
from moescope.store.views.chance import even_share_at
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

LANGUAGES = {seed: {row["language"] for row in record(seed, parts=5).prompts} for seed in range(8)}
SEEDS = [seed for seed, languages in LANGUAGES.items() if len(languages) == 3][:3]
"""Of parts with prompts in two languages and in none."""


@pytest.fixture
def only_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollups of prompts, and the prompts, can't be read."""
    for name in ("_load_rollups", "_prompts"):
        monkeypatch.setattr(TraceRows, name, lambda *_: pytest.fail("every prompt was read"))


def written(recorded: Recorded, folder: Path) -> Trace:
    with TraceWriter(
        folder, routers=recorded.routers, model={"name": "m"}, prompt_set={"name": "p"}, settings={}
    ) as out:
        for part in recorded.parts:
            out.write(part)
        out.finish()
    return open_trace(folder)


def uses(recorded: Recorded, by: str, kept: Callable[[dict], bool]) -> Counter:
    """(layer, stream, value of `by`, expert) → (times chosen), and the weights under ("weight", ...)."""
    prompts = {row["prompt_id"]: row | dict(row["tags"]) for row in recorded.prompts}
    found: Counter = Counter()
    for event in recorded.events:
        prompt = prompts[event["prompt_id"]]
        if not kept(event["token"] | prompt):
            continue
        for expert, weight in zip(event["experts"], event["weights"], strict=True):
            key = (event["layer"], event["stream"], prompt.get(by), expert)
            found[key] += 1
            found["weight", *key] += weight  # multiples of 1/64: exact in any order
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ({}, lambda row: True),
        ({"special": False, "phase": "decode"}, lambda row: not row["special"] and row["phase"] == "decode"),
        ({"where": {"language": ["ja"]}}, lambda row: row["language"] == "ja"),
        (
            {"where": {"group": "a"}, "completion": True},
            lambda row: row["group"] == "a" and row["completion"],
        ),
    ],
    ids=["all", "decode", "ja", "completions of a"],
)
def test_they_are_what_a_loop_over_events_gives(
    tmp_path: Path, only_sums: None, seed: int, tokens: dict[str, Any], kept: Callable[[dict], bool]
) -> None:
    recorded = record(seed, parts=5)
    write_group_sums(written(recorded, tmp_path / "t"))
    trace = open_trace(tmp_path / "t")
    for by in ("language", "group", "colour"):
        rows = trace.counts(by, **tokens).to_pylist()
        found: Counter = Counter()
        for row in rows:
            key = (row["layer"], row["stream"], row[by], row["expert"])
            found[key] += row["count"]
            found["weight", *key] += row["weight_sum"]
        assert +found == +uses(recorded, by, kept)


def outcomes(trace: Trace) -> list[Any]:
    """What views of use by group say, or that they refuse."""
    found: list[Any] = [even_share_at(trace, spec) for spec in trace.routers]
    filters = ({}, {"special": False}, {"where": {"language": ["de", "fr"]}}, {"where": {"group": ["no"]}})
    for view in ("load", "load-balance", "specialisation", "expert-map"):
        for by in ("language", "group"):
            for tokens in filters:
                try:
                    found += [trace.view(view, by=by, **tokens)]
                except StoreError as error:
                    found += [str(error)]
    return found


def check_same(found: list[Any], expected: list[Any]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, pa.Table):
            ours, theirs = ours.to_pydict(), theirs.to_pydict()
            for name, values in theirs.items():
                if values and isinstance(values[0], float):
                    values = pytest.approx(values, rel=1e-12, abs=1e-12, nan_ok=True)
                assert ours[name] == values
        else:
            assert ours == theirs


def test_views_say_the_same_with_them_and_without(own_trace_path: Path, request) -> None:
    expected = outcomes(open_trace(own_trace_path))
    manifest = (own_trace_path / "trace.json").read_bytes()
    write_group_sums(open_trace(own_trace_path))
    assert (own_trace_path / "trace.json").read_bytes() == manifest  # readers of before see no difference
    request.getfixturevalue("only_sums")
    trace = open_trace(own_trace_path)
    check_same(outcomes(trace), expected)
    assert trace.verify() == []


def test_what_they_do_not_tell_apart_is_read_from_prompts(own_trace_path: Path) -> None:
    expected = open_trace(own_trace_path).view("load", by="parallel_id")
    listed = write_group_sums(open_trace(own_trace_path), ["group"])
    assert listed.columns == ("group",)
    trace = open_trace(own_trace_path)
    assert trace.view("load", by="parallel_id").equals(expected)
    with pytest.raises(UnknownColumn, match="no column or tag 'colour'"):
        trace.view("load", by="colour")


@pytest.mark.parametrize(
    "change", ["a part more", "a part lost", "a page changed", "the list changed", "a newer list"]
)
def test_sums_of_other_parts_or_damaged_ones_are_not_used(tmp_path: Path, change: str, recwarn) -> None:
    plan = Synthetic(prompts=30, tokens_per_prompt=8, layers=2, experts=6, top_k=2, part_tokens=60)
    parts, path = list(synthetic_parts(plan)), tmp_path / "t"
    given: dict[str, Any] = {"routers": plan.routers(), "model": {}, "prompt_set": {}, "settings": {}}
    with TraceWriter(path, **given) as out:
        for part in parts[:-1]:
            out.write(part)
    listed = write_group_sums(open_trace(path))
    assert open_trace(path).group_sums() is not None
    file = path / "groups" / f"{listed.name}.parquet"
    if change == "a part more":
        with TraceWriter(path, **given, resume=True) as out:
            out.write(parts[-1])
    elif change == "a part lost":
        (path / open_trace(path).parts[1].path("events")).unlink()
    elif change == "a page changed":
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 4
        file.write_bytes(data)
    else:
        told = json.loads((path / LIST_NAME).read_text())
        told |= {"version": 2} if change == "a newer list" else {"cells": told["cells"][::-1]}
        (path / LIST_NAME).write_text(json.dumps(told))
    trace = open_trace(path)
    found = trace.view("load", by="language")
    assert trace.group_sums() is None
    said = [str(warning.message) for warning in recwarn if warning.category is DamageWarning]
    damaged = change.endswith("changed")
    assert ["run moescope rollup again" in text for text in said] == [True] * damaged
    assert [Path(problem.file).parent.name for problem in trace.verify()] == (
        ["groups"] if damaged else ["events"] if change == "a part lost" else []
    )
    shutil.rmtree(path / "groups")
    assert found.equals(open_trace(path).view("load", by="language"))


def test_columns_are_taken_while_their_groups_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record(SEEDS[0], parts=5)
    trace = written(recorded, tmp_path / "t")
    monkeypatch.setattr(group_cells, "MOST_CELLS", 3)
    listed = write_group_sums(trace)
    assert (listed.columns, sorted(listed.cells, key=repr)) == (("language",), [("en",), ("ja",), (None,)])
    for by, words in (
        (["language", "group"], "combinations; sums are kept of 3"),
        (["x"], "no column or tag 'x'"),
    ):
        with pytest.raises(StoreError, match=words):
            write_group_sums(trace, by)
    assert sorted(path.name for path in (tmp_path / "t" / "groups").iterdir()) == [
        "groups.json", f"{listed.name}.parquet",
    ]  # fmt: skip


def test_a_full_disk_leaves_the_sums_of_before(own_trace_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_group_sums(open_trace(own_trace_path))
    before = {path.name: path.read_bytes() for path in (own_trace_path / "groups").iterdir()}
    write, left = os.write, [1]

    def full(descriptor: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)  # the file is written, its list is not
    with pytest.raises(StoreError, match="the disk is full"):
        write_group_sums(open_trace(own_trace_path), ["language"])
    assert {path.name: path.read_bytes() for path in (own_trace_path / "groups").iterdir()} == before
    assert not (own_trace_path / ".writer.lock").exists()


def test_neither_beside_a_writer_nor_of_a_damaged_trace(own_trace_path: Path) -> None:
    lock = acquire_lock(open_trace(own_trace_path).folder)
    with pytest.raises(StoreError, match="is being written"):
        write_group_sums(open_trace(own_trace_path))
    lock.release()
    (own_trace_path / open_trace(own_trace_path).parts[0].path("rollups")).unlink()
    with pytest.raises(
        StoreError, match=r"sums need every part: rollups/part-00000.parquet: the file is missing"
    ):
        write_group_sums(open_trace(own_trace_path))
    assert not (own_trace_path / "groups").exists()


def test_few_requests_behind_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_synthetic(
        tmp_path / "bucket" / "t", Synthetic(prompts=24, tokens_per_prompt=8, layers=2, part_tokens=8)
    )
    monkeypatch.setattr("moescope.store.read.trace_rows.WORTH_BYTES", 0)
    with serving(tmp_path) as server:
        url = server.url("bucket/t")
        expected = open_trace(url).view("load", by="language")
        assert run(["rollup", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["groups"] >= 4
        monkeypatch.setattr(tables, "_columns", tables._Columns())
        monkeypatch.setattr(footers, "_footers", footers._Footers())
        trace = open_trace(url)
        server.counts()
        assert (
            trace.view("load", by="language")
            .drop(["weight_sum", "mean_probability"])
            .equals(expected.drop(["weight_sum", "mean_probability"]))
        )
        found = server.counts()
    assert found["GET"] <= 4
    assert len(trace.parts) > 12
