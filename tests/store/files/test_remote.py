"""Remote folders: written, read, resumed; memory:// stands for every fsspec file system."""

from __future__ import annotations

import json
import time
import uuid

import pytest

from moescope.store import TraceWriter, open_trace
from moescope.store.errors import NotATrace, TraceExists, TraceLocked
from moescope.store.files.folder import open_folder
from moescope.store.files.lock import HEARTBEAT_NAME, STALE_SECONDS
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

PLAN = Synthetic(prompts=10, tokens_per_prompt=8, layers=2, experts=6, top_k=2, part_tokens=30)


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/trace"


def writer(url: str, resume: bool = False) -> TraceWriter:
    return TraceWriter(
        url,
        routers=PLAN.routers(),
        model={"name": "synthetic", "class": "none: drawn at random"},
        prompt_set={"fingerprint": f"synthetic-{PLAN.seed}-{PLAN.prompts}"},
        settings={"plan": repr(PLAN)},
        resume=resume,
    )


def test_written_read_and_resumed(url: str, tmp_path) -> None:
    write_synthetic(tmp_path / "local", PLAN)
    local = open_trace(tmp_path / "local")
    with writer(url) as out:
        out.write(next(synthetic_parts(PLAN)))
        assert open_trace(url).state == "running"
    half = open_trace(url)
    assert half.state == "partial"
    assert 0 < half.num_prompts < PLAN.prompts
    write_synthetic(url, PLAN, resume=True)
    trace = open_trace(url)
    assert trace.state == "complete"
    assert trace.verify() == []
    assert trace.events().equals(local.events())
    assert trace.tokens("p000003").equals(local.tokens("p000003"))
    assert trace.view("load", by="language").equals(local.view("load", by="language"))
    assert trace.view("expert-contexts", layer=0, expert=2).equals(
        local.view("expert-contexts", layer=0, expert=2)
    )
    assert open_folder(url).sizes("").keys() == {"trace.json"}


def test_a_second_writer_is_refused_until_the_first_is_long_silent(url: str) -> None:
    first = writer(url)
    with pytest.raises(TraceLocked, match="is writing this trace"):
        writer(url, resume=True)
    folder = open_folder(url)
    beat = json.loads(folder.read(HEARTBEAT_NAME))
    folder.put(HEARTBEAT_NAME, json.dumps(beat | {"time": time.time() - STALE_SECONDS - 1}).encode())
    assert open_trace(url).state == "partial"
    with writer(url, resume=True) as second:
        with pytest.raises(TraceLocked, match="took over"):
            first.write(next(synthetic_parts(PLAN)))
        second.write(next(synthetic_parts(PLAN)))
    assert len(open_trace(url).parts) == 1


def test_a_folder_with_files_of_others_is_refused(url: str) -> None:
    open_folder(url).put("holiday.jpg", b"not ours")
    with pytest.raises(TraceExists, match=r"holds other files \(holiday.jpg\) and no trace"):
        writer(url)
    assert open_folder(url).read("holiday.jpg") == b"not ours"
    assert open_folder(url).sizes("").keys() == {"holiday.jpg"}


def test_nothing_there(url: str) -> None:
    with pytest.raises(NotATrace):
        open_trace(url)


def test_a_missing_remote_file_is_named(url: str) -> None:
    write_synthetic(url, PLAN)
    open_folder(url).remove("events/part-00001.parquet")
    trace = open_trace(url)
    assert [problem.file for problem in trace.problems] == ["events/part-00001.parquet"]
    assert 0 < trace.num_prompts < PLAN.prompts
