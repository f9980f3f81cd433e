"""Named after what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.store import StoreError, Trace, TraceWriter, list_traces, open_trace
from moescope.store.errors import BadPart, NewerTrace, NotATrace, ResumeRefused, TraceExists, TraceLocked
from moescope.store.files.folder import open_folder
from moescope.store.files.manifest import TABLES, Manifest
from moescope.store.trace import DamageWarning
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic
from moescope.store.write.target import check_target

PLAN = Synthetic(prompts=12, tokens_per_prompt=8, layers=2, experts=6, top_k=2, part_tokens=30, seed=5)


def writer(path: Path | str, plan: Synthetic = PLAN, **changes) -> TraceWriter:
    given_ = {
        "routers": plan.routers(),
        "model": {"name": "m"},
        "prompt_set": {"fingerprint": "f"},
        "settings": {},
    }
    return TraceWriter(path, **(given_ | changes))


# While writing


def test_the_second_writer_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "t"):
        with pytest.raises(TraceLocked, match="another process is writing"):
            writer(tmp_path / "t", resume=True)
        assert open_trace(tmp_path / "t").state == "running"
    writer(tmp_path / "t", resume=True).close()
    assert open_trace(tmp_path / "t").state == "partial"


def test_the_lock_of_a_writer_in_another_process_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from moescope.store import TraceWriter\n"
        "w = TraceWriter(sys.argv[1], routers=[], model={}, prompt_set={}, settings={})\n"
        "print('writing', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "t")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    assert open_trace(tmp_path / "t").state == "running"
    with pytest.raises(TraceLocked):
        TraceWriter(tmp_path / "t", routers=[], model={}, prompt_set={}, settings={}, resume=True)
    child.kill()
    child.wait()
    assert open_trace(tmp_path / "t").state == "partial"
    TraceWriter(tmp_path / "t", routers=[], model={}, prompt_set={}, settings={}, resume=True).close()


@pytest.mark.parametrize("at", range(1, 30))
def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The disk fills up at any write of the second and third part; the first stays, and resuming goes on."""
    parts = list(synthetic_parts(PLAN))[:3]
    with writer(tmp_path / "t") as out:
        out.write(parts[0])
        left, write = [at], os.write

        def full(descriptor: int, data) -> int:
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            said = ""
            try:
                out.write(parts[1])
                out.write(parts[2])
            except StoreError as error:
                said = str(error)
    assert "the disk is full" in said or left[0] > 0
    trace = open_trace(tmp_path / "t")
    assert trace.verify() == []
    assert trace.num_prompts >= parts[0].prompts.num_rows
    assert not list((tmp_path / "t").rglob("*.writing"))
    with writer(tmp_path / "t", resume=True) as out:
        for part in parts:
            if part.prompts["prompt_id"][0].as_py() not in out.committed_prompts:
                out.write(part)
        out.finish()
    assert open_trace(tmp_path / "t").num_prompts == sum(part.prompts.num_rows for part in parts)


def test_interrupt_while_a_part_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = list(synthetic_parts(PLAN))
    out = writer(tmp_path / "t")
    out.write(parts[0])

    def interrupt(*_: object) -> None:
        patch.undo()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt), out:
            out.write(parts[1])
    trace = open_trace(tmp_path / "t")
    assert trace.state == "partial"
    assert trace.num_prompts == parts[0].prompts.num_rows
    assert trace.verify() == []


def test_read_only_folder_is_refused_for_writing_and_fine_for_reading(
    own_trace_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write to folders that say otherwise, so the file system's own answer is played."""
    opened = os.open

    def read_only(path, flags: int, *args, **kwargs) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *args, **kwargs)

    before = sorted(own_trace_path.rglob("*"))
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StoreError, match="the file system is read-only"):
        writer(own_trace_path, resume=True)
    trace = open_trace(own_trace_path)
    assert trace.state == "complete"
    assert trace.verify() == []
    assert trace.view("load").num_rows
    assert sorted(own_trace_path.rglob("*")) == before


def test_symlinked_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    write_synthetic(tmp_path / "link", PLAN)
    assert (tmp_path / "real" / "trace.json").is_file()
    with pytest.raises(TraceExists):
        writer(tmp_path / "real")
    trace = open_trace(tmp_path / "link")
    (tmp_path / "link").unlink()
    assert trace.verify() == []


def test_a_crash_before_the_first_part_leaves_an_empty_trace(tmp_path: Path) -> None:
    writer(tmp_path / "t").close()
    trace = open_trace(tmp_path / "t")
    assert (trace.state, trace.num_prompts, trace.num_events) == ("partial", 0, 0)
    assert trace.prompts().num_rows == trace.tokens().num_rows == trace.events().num_rows == 0
    assert trace.tags() == {}
    load = trace.view("load")
    assert load["count"].to_pylist() == [0] * 12
    assert list(trace.iter_router(0)) == []


def test_a_trace_that_ended_before_its_first_part_does_not_stand_in_the_way(tmp_path: Path) -> None:
    writer(tmp_path / "t", model={"name": "the one that failed"}).close()
    check_target(tmp_path / "t")
    with writer(tmp_path / "t") as again:
        with pytest.raises(TraceLocked):
            check_target(tmp_path / "t")
        for part in synthetic_parts(PLAN):
            again.write(part)
        again.finish()
    trace = open_trace(tmp_path / "t")
    assert (trace.state, trace.manifest.model["name"]) == ("complete", "m")
    assert trace.verify() == []
    with pytest.raises(TraceExists):
        check_target(tmp_path / "t")


@pytest.mark.parametrize("name", ["events/part-2024.csv", "prompts/part-00000.parquet", "thesis.txt"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, name: str, resume: bool) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(TraceExists, match=name):
        writer(tmp_path / "mine", resume=resume)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "mine" / "trace.json").exists()


def test_no_folder_is_not_this_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (open_trace, writer):
        with pytest.raises(NotATrace, match="no folder was given"):
            use("")
    assert not list(tmp_path.iterdir())


def test_resuming_what_is_complete_keeps_its_summary(tmp_path: Path) -> None:
    with writer(tmp_path / "t") as first:
        for part in synthetic_parts(PLAN):
            first.write(part)
        first.finish(accuracy=0.5)
    with writer(tmp_path / "t", resume=True) as again:
        again.finish(accuracy=None)
    assert open_trace(tmp_path / "t").manifest.summary == {"accuracy": 0.5}


def test_a_reader_asks_whether_a_writer_is_at_work_without_writing(
    shared_trace_path: Path, tmp_path: Path
) -> None:
    """Why the lock is no library's: filelock's only question is to take the lock, for which it makes and truncates the
    file. Traces are read in folders where nobody may write, and by many at once."""
    from filelock import FileLock

    from moescope.store.files.folder import LocalFolder
    from moescope.store.files.lock import is_being_written

    shutil.copytree(shared_trace_path, tmp_path / "t")
    before = {path: path.stat().st_mtime_ns for path in [tmp_path / "t", *(tmp_path / "t").iterdir()]}
    assert not is_being_written(LocalFolder(tmp_path / "t"))
    assert {path: path.stat().st_mtime_ns for path in [tmp_path / "t", *(tmp_path / "t").iterdir()]} == before
    with FileLock(tmp_path / "t" / ".filelock"):
        assert (tmp_path / "t" / ".filelock").exists()
    assert (tmp_path / "t").stat().st_mtime_ns != before[tmp_path / "t"]
    with writer(tmp_path / "new"):
        assert all(is_being_written(LocalFolder(tmp_path / "new")) for _ in range(20))
    assert not is_being_written(LocalFolder(tmp_path / "new"))


def test_an_existing_trace_is_never_overwritten(shared_trace_path: Path) -> None:
    with pytest.raises(TraceExists, match="already holds a trace"):
        writer(shared_trace_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "m", "fingerprint": "other"}}, "its model has fingerprint"),
        ({"prompt_set": {"fingerprint": "g"}}, "its prompt_set has fingerprint = 'f', this run 'g'"),
        ({"settings": {"chat": True}}, "its settings has chat"),
        ({"capture": ("ids",)}, "another capture"),
        ({"steering": {"rules": []}}, "another steering"),
        ({"routers": PLAN.routers()[:1]}, "other routers"),
        ({"weight_type": "float32"}, "another weight type"),
    ],
)
def test_resuming_with_something_else_is_refused(tmp_path: Path, changes: dict, said: str) -> None:
    writer(tmp_path / "t").close()
    with pytest.raises(ResumeRefused, match=said):
        writer(tmp_path / "t", resume=True, **changes)
    writer(tmp_path / "t", resume=True, settings={"batch_tokens": 7, "device": "cuda"}).close()


def test_a_part_that_contradicts_itself_is_refused_whole(tmp_path: Path) -> None:
    def broken(change):
        part = next(synthetic_parts(PLAN))
        change(part)
        return part

    def shift(name: str, attribute: str, by: float):
        def change(part) -> None:
            target = getattr(part, name)[0]
            setattr(target, attribute, getattr(target, attribute) + by)

        return change

    cases = {
        "expert 6, but the router has 6": shift("events", "experts", 1),
        "no row in the tokens": shift("events", "position", 1000),
        "not about the same tokens": shift("sums", "prompt", 1),
        "no such router": shift("events", "layer", 50),
        "is NaN": shift("sums", "probability_sum", float("nan")),
        "not sorted": lambda part: setattr(part.events[0], "position", part.events[0].position[::-1].copy()),
        "weights have shape": lambda part: setattr(part.events[0], "weights", part.events[0].weights[:1]),
        "unknown column": lambda part: setattr(
            part, "prompts", part.prompts.append_column("x", part.prompts["text"])
        ),
        "handed in twice": lambda part: part.events.append(part.events[0]),
    }
    with writer(tmp_path / "t") as out:
        for said, change in cases.items():
            part = broken(change)
            if said == "expert 6, but the router has 6":
                part.events[0].experts[:] = 6
            with pytest.raises(BadPart, match=said):
                out.write(part)
        out.write(next(synthetic_parts(PLAN)))
        with pytest.raises(BadPart, match="is in the trace already"):
            out.write(next(synthetic_parts(PLAN)))
    assert len(open_trace(tmp_path / "t").parts) == 1


@pytest.mark.parametrize(("name", "shape"), [("entropy", (-1,)), ("entropy", (1,)), ("logits", (-1, 6))])
def test_extras_of_another_length_are_refused_before_a_file_is_written(tmp_path, name, shape):
    part = next(synthetic_parts(PLAN))
    rows = len(part.events[0].position) + shape[0]
    part.events[0].extras[name] = np.zeros((rows, *shape[1:]), np.float32)
    with writer(tmp_path / "t", capture=("ids", "weights", name)) as out:
        with pytest.raises(BadPart, match=f"{name} has {rows} values for {rows - shape[0]} events"):
            out.write(part)
        assert not list((tmp_path / "t").rglob("part-*"))


# While reading


def everything(trace: Trace) -> dict:
    """All that a trace says, by prompt."""
    said: dict[str, list] = {prompt["prompt_id"]: [prompt] for prompt in trace.prompts().to_pylist()}
    for row in trace.tokens().to_pylist() + trace.events().to_pylist():
        said[row["prompt_id"]].append(row)
    ids = list(said)
    for spec in trace.routers:
        arrays = trace.rollup_arrays(spec.layer, spec.stream)
        assert arrays.weight_sum is not None
        assert arrays.probability_sum is not None
        for row, index in enumerate(arrays.prompt_index):
            sums = [
                arrays.count[row].tolist(),
                arrays.weight_sum[row].tolist(),
                arrays.probability_sum[row].tolist(),
            ]
            said[ids[index]].append(sums)
    return said


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_missing_and_truncated_parts_are_named_and_the_rest_stays(
    own_trace_path: Path, table: str, damage: str
) -> None:
    whole = everything(open_trace(own_trace_path))
    file = own_trace_path / table / "part-00001.parquet"
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2 if damage == "truncated" else 0)
    trace = open_trace(own_trace_path)
    assert [problem.file for problem in trace.problems] == [f"{table}/part-00001.parquet"]
    assert "expected" in trace.problems[0].message
    assert "\n" not in trace.problems[0].message
    assert [problem.part for problem in trace.verify()] == ["part-00001"]
    left = everything(trace)
    assert 0 < len(left) < len(whole)
    assert all(left[prompt] == whole[prompt] for prompt in left)
    assert trace.sql("SELECT count(*) AS n FROM prompts").to_pylist() == [{"n": len(left)}]


def test_a_flipped_byte_never_changes_a_number(tmp_path: Path) -> None:
    plan = Synthetic(prompts=4, tokens_per_prompt=8, layers=1, experts=6, top_k=2, part_tokens=15, seed=5)
    write_synthetic(tmp_path / "whole", plan)
    whole = everything(open_trace(tmp_path / "whole"))
    rng = random.Random(4)
    caught = 0
    for number in range(60):
        path = Path(shutil.copytree(tmp_path / "whole", tmp_path / str(number)))
        file = rng.choice(sorted(path.rglob("*.parquet")))
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        trace = open_trace(path)
        assert [problem.file for problem in trace.verify()] == [f"{file.parent.name}/{file.name}"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamageWarning)
            everything(trace)  # finds the damage, perhaps halfway
            left = everything(trace)
        assert all(left[prompt] == whole[prompt] for prompt in left)
        if len(left) < len(whole):
            caught += 1
            assert [problem.part for problem in trace.problems] == [file.stem]
        shutil.rmtree(path)
    assert caught > 40


def test_a_manifest_from_a_newer_version(own_trace_path: Path) -> None:
    path = own_trace_path / "trace.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema_version": 99, "versions": {"moescope": "7.1"}}))
    with pytest.raises(NewerTrace, match=r"format 99, written by moescope 7\.1.*upgrade"):
        open_trace(own_trace_path)
    with pytest.raises(NewerTrace):
        writer(own_trace_path, resume=True)
    [summary] = list_traces(own_trace_path.parent)[:1]
    assert "format 99" in (summary.error or "")


def test_an_unknown_column_and_unknown_manifest_entries_are_ignored(own_trace_path: Path) -> None:
    """A later version of the same format may add both."""
    import hashlib
    import zlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    from moescope.store.files.layout import footer_of

    whole = everything(open_trace(own_trace_path))
    path = own_trace_path / "trace.json"
    data = json.loads(path.read_text())
    del data["checksum"]
    data["new"] = {"x": 1}
    data["routers"][0]["colour"] = "red"
    for table in TABLES:
        entry = data["parts"][0]["files"][table]
        file = own_trace_path / table / "part-00000.parquet"
        old = pq.ParquetFile(file)
        sink = pa.BufferOutputStream()
        names = old.schema_arrow.append(pa.field("new", pa.int64()))
        with pq.ParquetWriter(sink, names) as out:
            for group in range(old.num_row_groups):
                rows = old.read_row_group(group)
                out.write_table(rows.append_column("new", pa.array(range(rows.num_rows))))
            out.add_key_value_metadata(
                {b"moescope.row_groups": old.metadata.metadata[b"moescope.row_groups"]}
            )
        content = sink.getvalue().to_pybytes()
        file.write_bytes(content)
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "new": 1}
        entry["footer_crc32"] = zlib.crc32(footer_of(memoryview(content)))
    path.write_text(json.dumps(data))
    trace = open_trace(own_trace_path)
    assert trace.verify() == []
    assert everything(trace) == whole
    assert trace.sql("SELECT count(*) AS n FROM events").to_pylist() == [{"n": trace.num_events}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_manifest_is_refused_or_read(shared_trace_path: Path, data: st.DataObject) -> None:
    manifest = json.loads((shared_trace_path / "trace.json").read_text())
    if data.draw(st.booleans()):
        del manifest["checksum"]  # what stands behind it must hold by itself
    at = manifest
    while isinstance(at, dict | list) and at:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(at[key], dict | list) or data.draw(st.booleans()):
            if data.draw(st.booleans()):
                at[key] = data.draw(JSON)
            else:
                del at[key]
            break
        at = at[key]
    with contextlib.suppress(StoreError):
        Manifest.from_json(manifest)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.binary(max_size=3))
def test_a_manifest_with_damaged_bytes_is_refused_or_read(
    shared_trace_path: Path, at: int, patch: bytes
) -> None:
    import tempfile

    content = bytearray((shared_trace_path / "trace.json").read_bytes())
    content[at : at + len(patch)] = patch
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trace.json").write_bytes(content)
        with contextlib.suppress(StoreError):
            Manifest.load(open_folder(folder))


def test_a_part_name_can_not_lead_out_of_the_folder(own_trace_path: Path) -> None:
    path = own_trace_path / "trace.json"
    data = path.read_text().replace('"part-00000"', '"../../../etc/passwd"')
    path.write_text(json.dumps(json.loads(data) | {"checksum": None}))
    with pytest.raises(StoreError, match="a part has the name"):
        open_trace(own_trace_path)


def test_not_a_trace(tmp_path: Path) -> None:
    with pytest.raises(NotATrace, match="no such folder"):
        open_trace(tmp_path / "nothing")
    with pytest.raises(NotATrace, match=r"has no trace\.json"):
        open_trace(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotATrace):
        open_trace(tmp_path / "file")
    with pytest.raises(StoreError):
        open_trace("nosuchprotocol://x/y")
