"""Shards of one prompt set become one trace: every event once, and nothing that is not of it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moescope.app.cli.commands import run
from moescope.store import Trace, TraceWriter, open_trace
from moescope.store.errors import DamagedPart, StoreError, TraceExists
from moescope.store.files.folder import LocalFolder
from moescope.store.schema import Part
from moescope.store.write.merge import MergeRefused, merge_shards
from moescope.store.write.synthetic import Synthetic, synthetic_parts

PLAN = Synthetic(prompts=20, tokens_per_prompt=9, layers=2, experts=8, top_k=2, part_tokens=30, seed=5)
PARTS = list(synthetic_parts(PLAN))
MADE: dict[str, Any] = {
    "model": {"name": "m", "weights_fingerprint": "abc", "device": "cpu"},
    "prompt_set": {"fingerprint": "def", "prompts": PLAN.prompts},
    "settings": {"chat": False, "limit": None},
    "routers": PLAN.routers(),
    "capture": ("ids", "weights"),
}


def made(path: Path, parts: list[Part], shard: int | None = None, **changes: Any) -> Path:
    given = {
        name: value | changes.get(name, {}) if isinstance(value, dict) else changes.get(name, value)
        for name, value in MADE.items()
    }
    given["settings"] |= {} if shard is None else {"shard": [shard, 3]}
    with TraceWriter(path, **given) as out:
        for part in parts:
            out.write(part)
        out.finish(seconds=2.0, prompts=sum(part.prompts.num_rows for part in parts))
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    return [
        made(folder / str(i), PARTS[i::3], i + 1, model={"device": f"cuda:{i}"}, settings={"batch_tokens": i})
        for i in range(3)
    ]


def events(trace: Trace) -> list[Any]:
    table = trace.events()
    return sorted(
        zip(*(map(str, table[name].to_pylist()) for name in sorted(table.column_names)), strict=True)
    )


def test_the_merged_trace_is_the_trace_of_one_run(tmp_path: Path, shards: list[Path]) -> None:
    told = []
    merged = merge_shards(shards, tmp_path / "all", progress=lambda *at: told.append(at))
    found, whole = open_trace(tmp_path / "all"), open_trace(made(tmp_path / "whole", PARTS))
    assert (merged.state, merged.prompts, merged.missing) == ("complete", 20, 0)
    assert told[-1] == (len(PARTS), len(PARTS))
    assert found.verify() == []
    assert events(found) == events(whole)
    for prompt_id in ("p000000", "p000013"):
        assert found.tokens(prompt_id) == whole.tokens(prompt_id)
    order = [("layer", "ascending"), ("expert", "ascending")]
    assert found.view("load").sort_by(order).equals(whole.view("load").sort_by(order))
    manifest = found.manifest
    assert "shard" not in manifest.settings
    assert manifest.summary["seconds"] == 6
    parts = [len(PARTS[i::3]) for i in range(3)]
    assert [(run["first_part"], run["device"]) for run in manifest.runs] == [
        (0, "cuda:0"), (parts[0], "cuda:1"), (parts[0] + parts[1], "cuda:2"),
    ]  # fmt: skip


def test_a_merge_that_breaks_off_goes_on(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, count = LocalFolder.put, [0]

    def full(self: LocalFolder, path: str, data: bytes) -> None:
        count[0] += path.startswith("events/")
        if count[0] == 4:
            raise OSError(errno.ENOSPC, "full")
        put(self, path, data)

    monkeypatch.setattr(LocalFolder, "put", full)
    with pytest.raises(StoreError, match="disk is full"):
        merge_shards(shards, tmp_path / "all")
    monkeypatch.undo()
    assert open_trace(tmp_path / "all").state == "partial"
    with pytest.raises(TraceExists):
        merge_shards(shards, tmp_path / "all")
    assert merge_shards(shards, tmp_path / "all", resume=True).state == "complete"
    merge_shards(shards, tmp_path / "again")
    found, whole = open_trace(tmp_path / "all"), open_trace(tmp_path / "again")
    assert found.verify() == []
    assert events(found) == events(whole)
    assert [run["first_part"] for run in found.manifest.runs] == [
        run["first_part"] for run in whole.manifest.runs
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"weights_fingerprint": "other"}}, "another model .* weights_fingerprint is 'other'"),
        ({"prompt_set": {"fingerprint": "other"}}, "prompt_set has fingerprint = 'other'"),
        ({"capture": ("ids",)}, "another capture"),
        ({"routers": [replace(PLAN.routers()[0], scoring="sigmoid"), PLAN.routers()[1]]}, "other routers"),
        ({"settings": {"chat": True}}, "settings has chat = True"),
    ],
)
def test_what_is_not_of_one_trace_is_refused(
    tmp_path: Path, shards: list[Path], changes: dict[str, Any], words: str
) -> None:
    parts = PARTS[1::3]
    if changes.get("capture") == ("ids",):
        parts = [replace(part, events=[replace(e, weights=None) for e in part.events]) for part in parts]
    other = made(tmp_path / "other", parts, 2, **changes)
    with pytest.raises(MergeRefused, match=words):
        merge_shards([shards[0], other], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_prompt_in_two_shards_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    twice = made(tmp_path / "twice", PARTS[:2], 2)
    with pytest.raises(MergeRefused, match=r"prompt 'p\d+' is in .*0 and in .*twice"):
        merge_shards([shards[0], twice], tmp_path / "all")
    with pytest.raises(MergeRefused, match="0 is named twice"):
        merge_shards([shards[0], shards[1], shards[0]], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_damaged_shard_is_named_and_not_copied(
    tmp_path: Path, shards: list[Path], harm: Callable[[Path], None]
) -> None:
    copy = shutil.copytree(shards[1], tmp_path / "copy")
    harm(sorted((copy / "events").iterdir())[1])
    with pytest.raises(DamagedPart, match="events/part-00001"):
        merge_shards([shards[0], copy], tmp_path / "all")


def test_what_no_shard_holds_is_said(
    tmp_path: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["merge-shards", str(tmp_path / "all"), str(shards[0]), str(shards[1])]) == 0
    missing = 20 - sum(part.prompts.num_rows for i in (0, 1) for part in PARTS[i::3])
    assert f"{missing} prompts of the set are in no shard" in capsys.readouterr().out
    assert open_trace(tmp_path / "all").state == "partial"
    with TraceWriter(tmp_path / "all", **MADE, resume=True) as out:  # as `moescope trace --resume` would
        for part in PARTS[2::3]:
            out.write(part)
        out.finish()
    assert open_trace(tmp_path / "all").verify() == []
    assert events(open_trace(tmp_path / "all")) == events(open_trace(made(tmp_path / "whole", PARTS)))


def test_a_shard_that_is_being_written_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    with (
        TraceWriter(tmp_path / "open", **MADE),
        pytest.raises(MergeRefused, match="is being written"),
    ):
        merge_shards([shards[0], tmp_path / "open"], tmp_path / "all")
