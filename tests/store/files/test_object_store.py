"""A trace behind an object store answers as one on a disk does, with few requests, many at once, none of them for a
size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_server import ObjectServer, serving

from moescope.store import Trace, open_trace, views
from moescope.store.errors import StoreError, Unreachable
from moescope.store.export import export_trace
from moescope.store.files import damage, footers, tables
from moescope.store.files.remote import IN_FLIGHT, RemoteParquet, allow_requests
from moescope.store.read.trace_parts import DamageWarning
from moescope.store.write.synthetic import Synthetic, write_synthetic

GIVEN: dict[str, Any] = {
    "layer": 1, "expert": 2, "target": "en", "other_target": "de", "cells": "1:2", "prompts": "p000000",
    "prompt_id": "p000003", "layers": "0:2", "where_a": {"language": ["en"]}, "where_b": {"language": ["de"]},
    "value": "en", "by": "language",
}  # fmt: skip
FEW: dict[str, Any] = {"permutations": 20, "bootstraps": 20, "resamples": 20}
"""What makes a view slow, kept small."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with serving(tmp_path_factory.mktemp("objects")) as found:
        yield found


def uploaded(server: ObjectServer, folder: Path, name: str) -> str:
    shutil.copytree(folder, server.root / "bucket" / name)
    return server.url(f"bucket/{name}")


@pytest.fixture(scope="module")
def far(server: ObjectServer, shared_trace_path: Path) -> Trace:
    return open_trace(uploaded(server, shared_trace_path, "shared"))


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are remembered by checksum: a copy would be answered from the memory of the original."""
    monkeypatch.setattr(tables, "_columns", tables._Columns())
    monkeypatch.setattr(footers, "_footers", footers._Footers())


def outcome(trace: Trace, view: str) -> pa.Table | str:
    """The table, or what the view says instead."""
    known = views.parameters(view)
    given = {name: value for name, value in (GIVEN | FEW).items() if name in known}
    if view in ("token-experts", "vocabulary"):
        given |= {"token": "t1"} if "token" in known else {}
    try:
        return trace.view(view, **given)
    except (StoreError, TypeError) as error:
        return str(error)


def test_every_view_is_that_of_the_disk(far: Trace, shared_trace: Trace, nothing_kept: None) -> None:
    answered = 0
    for view in views.names():
        here, there = outcome(shared_trace, view), outcome(far, view)
        if not (isinstance(here, str) or isinstance(there, str)):
            assert there.equals(here), view
            answered += 1
        else:
            assert there == here, view
    assert answered > len(views.names()) * 3 // 4


def test_every_table_is_that_of_the_disk(far: Trace, shared_trace: Trace, nothing_kept: None) -> None:
    for ask in (
        lambda trace: trace.prompts(),
        lambda trace: trace.tokens(),
        lambda trace: trace.events(),
        lambda trace: trace.events("p000005", layer=[0, 2]),
        lambda trace: trace.tokens("p000005"),
        lambda trace: trace.sql("SELECT layer, expert, count(*) n FROM selections GROUP BY ALL ORDER BY ALL"),
    ):
        assert ask(far).equals(ask(shared_trace))
    assert far.verify() == []


def test_verified_and_exported_piece_by_piece(
    server: ObjectServer, own_trace_path: Path, tmp_path: Path, nothing_kept: None, monkeypatch
) -> None:
    flip(own_trace_path / "tokens" / "part-00002.parquet", 700)
    trace, told = open_trace(uploaded(server, own_trace_path, "verified")), []
    monkeypatch.setattr(damage, "_PIECE_BYTES", 8192)
    monkeypatch.setattr(server, "delay", 0.03)
    server.counts()
    (problem,) = trace.verify(lambda *at: told.append(at))
    assert problem.file == "tokens/part-00002.parquet"
    assert told == [(done, len(trace.parts)) for done in range(1, len(trace.parts) + 1)]
    found = server.counts()
    assert found["most"] >= len(trace.parts)
    size = sum(file.bytes for part in trace.parts for file in part.files.values())
    assert found["GET"] > size / 8192
    monkeypatch.setattr(server, "delay", 0)
    clean = open_trace(uploaded(server, shutil.copytree(own_trace_path, tmp_path / "clean"), "clean"))
    with pytest.raises(StoreError, match="tokens/part-00002"):
        export_trace(clean, tmp_path / "out", "parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "trace"]
    flip(server.root / "bucket" / "clean" / "tokens" / "part-00002.parquet", 700)
    export_trace(clean, tmp_path / "out", "parquet")
    assert pq.read_table(tmp_path / "out" / "events.parquet").equals(open_trace(own_trace_path).events())


@pytest.fixture(scope="module")
def many_parts(server: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("many") / "trace"
    write_synthetic(folder, Synthetic(prompts=80, tokens_per_prompt=8, layers=2, part_tokens=8))
    return uploaded(server, folder, "many")


@pytest.mark.parametrize(
    "ask",
    [lambda trace: trace.view("load", by="language"), lambda trace: list(trace.iter_router(1))],
    ids=["load", "one layer"],
)
def test_many_requests_at_once_and_none_for_a_size(
    server: ObjectServer, many_parts: str, nothing_kept: None, monkeypatch, ask: Callable[[Trace], Any]
) -> None:
    trace = open_trace(many_parts)
    parts = len(trace.parts)
    assert parts > 40
    monkeypatch.setattr(server, "delay", 0.1)
    server.counts()
    ask(trace)
    found = server.counts()
    assert "HEAD" not in found
    assert "LIST" not in found
    assert 32 <= found["most"] <= IN_FLIGHT
    # A footer and a stretch of columns of each of at most three files a part; small columns lie side by side.
    assert found["GET"] <= 6 * parts


def test_opening_takes_four_listings_and_the_manifest(server: ObjectServer, many_parts: str) -> None:
    server.counts()
    open_trace(many_parts)
    found = server.counts()
    assert (found["HEAD"], found["GET"], found["LIST"]) == (1, 1, 4)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("at", [2000, -300, -6], ids=["a page", "the footer", "its length"])
def test_a_changed_byte_never_becomes_a_number(
    server: ObjectServer, own_trace_path: Path, shared_trace: Trace, nothing_kept: None, at: int
) -> None:
    part = shared_trace.parts[1]
    flip(own_trace_path / part.path("events"), at)
    trace = open_trace(uploaded(server, own_trace_path, f"flipped{at}"))
    assert trace.problems == []
    with pytest.warns(DamageWarning, match="left out"):
        found = trace.events()
    assert [problem.part for problem in trace.problems] == [part.name]
    left = set(shared_trace.prompts()["prompt_id"].to_pylist()) - set(
        shared_trace.prompts()["prompt_id"].to_pylist()[part.first_prompt : part.first_prompt + part.prompts]
    )
    assert set(found["prompt_id"].to_pylist()) == left


@pytest.mark.parametrize("refused", ["rollups/part-00001", "prompts/part-00000"])
def test_a_store_that_refuses_for_a_while_loses_no_part(
    server: ObjectServer, far: Trace, shared_trace: Trace, nothing_kept: None, monkeypatch, refused: str
) -> None:
    trace = open_trace(far.url)
    monkeypatch.setattr(server, "refused", refused)
    with pytest.raises(
        Unreachable, match=rf"{refused}.* can't be read now, .*(the token has expired|ACCESS_DENIED)"
    ) as error:  # Arrow's client at times reads the status and not the store's words
        trace.view("load", by="language")
    assert "secret" not in str(error.value)
    with pytest.raises(Unreachable, match=refused):
        trace.verify()
    monkeypatch.setattr(server, "refused", "trace.json")
    with pytest.raises(Unreachable, match=r"trace\.json can't be read"):
        open_trace(far.url)
    monkeypatch.setattr(server, "refused", "\0")
    assert trace.problems == []
    assert trace.view("load", by="language").equals(shared_trace.view("load", by="language"))


def test_a_footer_that_a_newer_arrow_writes_otherwise_is_read_as_it_lies(
    far: Trace, shared_trace: Trace, nothing_kept: None, monkeypatch
) -> None:
    monkeypatch.setattr(RemoteParquet, "footer_crc32", lambda file: 0)
    assert far.events("p000007").equals(shared_trace.events("p000007"))


def test_a_number_of_requests_that_the_user_gave_is_left(monkeypatch) -> None:
    before = pa.io_thread_count()
    monkeypatch.setitem(os.environ, "ARROW_IO_THREADS", "5")
    pa.set_io_thread_count(5)
    try:
        allow_requests()
        assert pa.io_thread_count() == 5
    finally:
        pa.set_io_thread_count(before)
