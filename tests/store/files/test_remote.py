"""Remote folders: written, read, resumed; memory:// stands for every fsspec file system."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from moescope.store import TraceWriter, open_trace
from moescope.store.errors import NotATrace, TraceExists, TraceLocked
from moescope.store.files import lock
from moescope.store.files.folder import open_folder
from moescope.store.files.lock import HEARTBEAT_NAME
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


@pytest.fixture
def fast(monkeypatch) -> None:
    """Beats and watching in hundredths of a second."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.4)


def killed(first: TraceWriter) -> None:
    """The writer's threads end without a word, as by SIGKILL."""
    assert isinstance(first._ledger._lock, lock.HeartbeatLock)
    first._ledger._lock._end.set()
    first._ledger._lock._thread.join()


def test_a_live_writer_keeps_its_lock_however_long_a_commit_takes(url: str, fast) -> None:
    first = writer(url)
    time.sleep(1.0)  # no commit for more than twice the time that a rival watches
    with pytest.raises(TraceLocked, match="is writing this trace"):
        writer(url, resume=True)
    first.write(next(synthetic_parts(PLAN)))
    first.close()
    assert len(open_trace(url).parts) == 1


def test_a_dead_writer_is_followed_at_once_and_stops_where_it_wakes(url: str, fast) -> None:
    first = writer(url)
    parts = list(synthetic_parts(PLAN))
    first.write(parts[0])
    killed(first)
    with writer(url, resume=True) as second:
        with pytest.raises(TraceLocked, match="took over"):
            first.write(parts[1])
        second.write(parts[1])
        with pytest.raises(TraceLocked, match="took over"):
            first.finish()
        with pytest.raises(TraceLocked, match="took over"):
            first._ledger._save()
        first.close()
    trace = open_trace(url)
    assert trace.verify() == []
    names = [part.name for part in trace.parts]
    assert len(names) == 2
    assert names[0].split("-")[2] != names[1].split("-")[2]


def test_a_clock_that_ran_ahead_locks_nobody_out(url: str, fast) -> None:
    first = writer(url)
    killed(first)
    folder = open_folder(url)
    beat = json.loads(folder.read(HEARTBEAT_NAME))
    folder.put(HEARTBEAT_NAME, json.dumps(beat | {"time": time.time() + 1e7}).encode())
    assert open_trace(url).state == "partial"
    writer(url, resume=True).close()


def test_a_dead_process_of_this_machine_does_not_make_its_successor_wait(url: str) -> None:
    first = writer(url)
    killed(first)
    folder = open_folder(url)
    beat = json.loads(folder.read(HEARTBEAT_NAME))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder.put(HEARTBEAT_NAME, json.dumps(beat | {"pid": gone.pid}).encode())
    started = time.monotonic()
    writer(url, resume=True).close()
    assert time.monotonic() - started < lock.WATCH_SECONDS / 2


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
    lost = f"events/{open_trace(url).parts[1].name}.parquet"
    open_folder(url).remove(lost)
    trace = open_trace(url)
    assert [problem.file for problem in trace.problems] == [lost]
    assert 0 < trace.num_prompts < PLAN.prompts


class RangeFile(AbstractBufferedFile):
    """As fsspec's files behind HTTP, whose content comes in ranges."""

    fetched = 0

    def _fetch_range(self, start: int, end: int) -> bytes:
        RangeFile.fetched += end - start
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


class RangeFileSystem(LocalFileSystem):
    protocol = "ranges"

    def _open(self, path, mode="rb", block_size=None, **options) -> Any:
        return RangeFile(self, path, mode, block_size or "default", **options)


def test_no_more_is_read_through_fsspec_than_was_asked_for(tmp_path) -> None:
    fsspec.register_implementation("ranges", RangeFileSystem, clobber=True)
    (tmp_path / "file").write_bytes(bytes(range(250)) * 1000)
    folder = open_folder(f"ranges://{tmp_path}")
    with folder.open("file") as file:
        assert file.read_at(10, 2500) == bytes(range(10))
    assert RangeFile.fetched == 10
    with pytest.raises(FileNotFoundError):
        folder.open("other")
