"""A long trace is listed beside its manifest while it is written: nothing lost, nothing written again and again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from moescope.store import open_trace
from moescope.store.errors import DamagedTrace
from moescope.store.files import commits
from moescope.store.files.folder import LocalFolder, open_folder
from moescope.store.files.manifest import Manifest
from moescope.store.schema import Part
from moescope.store.write import ledger
from moescope.store.write.synthetic import Synthetic, synthetic_parts
from moescope.store.write.writer import TraceWriter

PLAN = Synthetic(prompts=40, tokens_per_prompt=2, layers=1, experts=4, top_k=1, part_tokens=2, seed=3)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "WHOLE_PARTS", 2)


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    return list(synthetic_parts(PLAN))


def writer(url: str | Path, resume: bool = False) -> TraceWriter:
    return TraceWriter(
        url, routers=PLAN.routers(), model={}, prompt_set={}, settings={}, capture=("ids", "weights"),
        resume=resume,
    )  # fmt: skip


@pytest.fixture
def left(tmp_path: Path, parts: list[Part]) -> Iterator[Path]:
    """A trace of seven parts whose writer has not ended."""
    out = writer(tmp_path / "t")
    for part in parts[:7]:
        out.write(part)
    yield tmp_path / "t"
    out.close()


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_every_commit_is_seen_and_the_bytes_grow_with_the_parts(
    parts: list[Part], tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "t") if where == "disk" else f"memory://{tmp_path.name}/t"
    listed, kind = [0], type(open_folder(url, create=True))
    put = kind.put

    def counted(self: LocalFolder, path: str, data: bytes) -> None:
        if path.startswith("trace.json"):
            listed[0] += bytes(data).count(b'"first_prompt"')
        put(self, path, data)

    monkeypatch.setattr(kind, "put", counted)
    with writer(url) as out:
        for number, part in enumerate(parts, 1):
            out.write(part)
            trace = open_trace(url)
            prompts = sum(one.prompts.num_rows for one in parts[:number])
            assert (len(trace.parts), trace.num_prompts, trace.state) == (number, prompts, "running")
            files = commits.listed(open_folder(url))
            assert len(files) <= 2 * math.log2(number) + 2
        out.finish()
    assert listed[0] <= len(parts) * (math.log2(len(parts)) / 2 + 2) < len(parts) ** 2 / 4
    assert commits.listed(open_folder(url)) == []
    assert json.loads(open_folder(url).read("trace.json"))["schema_version"] == 2
    assert open_trace(url).num_prompts == PLAN.prompts
    assert open_trace(url).verify() == []


def test_an_older_moescope_does_not_take_the_beginning_for_the_whole(left: Path) -> None:
    data = json.loads((left / "trace.json").read_text())
    assert len(data["parts"]) == 2 < open_trace(left).num_prompts
    assert data["schema_version"] == 3  # refused by who reads up to 2


def test_files_of_a_writer_that_was_replaced_are_no_part_of_the_trace(left: Path) -> None:
    file = next(left.glob("trace.json.*-2-6"))
    text = file.read_text().replace(json.loads(file.read_text())["commits"], "0" * 8)
    (left / "trace.json.00000000-2-20").write_text(text)
    assert open_trace(left).num_prompts == 7


def test_a_killed_writer_is_resumed_from_its_last_commit(
    left: Path, parts: list[Part], tmp_path: Path
) -> None:
    (left / ".writer.lock").unlink()  # as where its process has died
    (left / "trace.json.00000000-2-9").write_text("{}")
    with writer(left, resume=True) as out:
        assert len(out.committed_prompts) == 7
        assert len(json.loads((left / "trace.json").read_text())["parts"]) == 7
        for part in parts[7:]:
            out.write(part)
        out.finish()
    with writer(tmp_path / "whole") as out:
        for part in parts:
            out.write(part)
        out.finish()
    assert open_trace(left).events().equals(open_trace(tmp_path / "whole").events())
    assert [path.name for path in left.glob("trace.json*")] == ["trace.json"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.unlink(), "is missing, later ones are there"),
        (lambda file: file.write_text(file.read_text().replace('"rows": 1', '"rows": 2', 1)), "its checksum differs"),
        (lambda file: file.write_bytes(file.read_bytes()[:300]), "is damaged"),
        (lambda file: file.write_text("[]"), "is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(left: Path, damage, said: str) -> None:
    damage(next(left.glob("trace.json.*-2-6")))
    for stale in [*left.glob("trace.json.*-2-4"), *left.glob("trace.json.*-4-*")]:
        stale.unlink()
    with pytest.raises(DamagedTrace, match=said):
        open_trace(left)


def test_a_reader_whose_file_is_replaced_meanwhile_reads_again(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, gone = LocalFolder.read, ["once"]

    def vanishing(self: LocalFolder, path: str) -> bytes:
        if path != "trace.json" and gone:
            gone.pop()
            raise FileNotFoundError(path)
        return read(self, path)

    monkeypatch.setattr(LocalFolder, "read", vanishing)
    assert len(Manifest.load(open_folder(left)).parts) == 7
