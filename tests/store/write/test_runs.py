"""A trace that was resumed with other batches says so."""

from __future__ import annotations

import json
from pathlib import Path

from moescope.store import TraceWriter, open_trace
from moescope.store.files.runs import differences
from moescope.store.write.synthetic import Synthetic, synthetic_parts

PLAN = Synthetic(prompts=10, tokens_per_prompt=8, layers=2, experts=6, top_k=2, part_tokens=30)


def begin(path: Path, **settings) -> TraceWriter:
    return TraceWriter(
        path, routers=PLAN.routers(), model={"name": "m", "device": "cpu"}, prompt_set={},
        settings={"seed": 1} | settings, resume=path.exists(),
    )  # fmt: skip


def told(path: Path) -> list[tuple[int, int | None]]:
    return [
        (run["first_part"], run.get("batch_tokens"))
        for run in json.loads((path / "trace.json").read_text())["runs"]
    ]


def test_each_run_that_committed_something_is_told(tmp_path: Path) -> None:
    path, parts = tmp_path / "t", list(synthetic_parts(PLAN))
    with begin(path, batch_tokens=8192) as out:
        out.write(parts[0])
    assert differences(open_trace(path).manifest) == ""
    begin(path, batch_tokens=99).close()  # nothing came of this one
    with begin(path, batch_tokens=512) as out:
        out.write(parts[1])
        out.finish()
    assert told(path) == [(0, 8192), (1, 512)]
    manifest = open_trace(path).manifest
    assert manifest.settings["batch_tokens"] == 8192
    assert differences(manifest) == "batch_tokens 8192, then 512"


def test_of_a_trace_of_before_the_first_run_is_what_its_settings_say(tmp_path: Path) -> None:
    path, parts = tmp_path / "t", list(synthetic_parts(PLAN))
    with begin(path, batch_tokens=8192) as out:
        out.write(parts[0])
    data = json.loads((path / "trace.json").read_text())
    del data["runs"], data["checksum"]
    (path / "trace.json").write_text(json.dumps(data))
    with begin(path, batch_tokens=512) as out:
        out.write(parts[1])
    assert told(path) == [(0, 8192), (1, 512)]


def test_the_same_settings_again_are_no_difference(tmp_path: Path) -> None:
    path, parts = tmp_path / "t", list(synthetic_parts(PLAN))
    for part in parts[:2]:
        with begin(path, batch_tokens=64) as out:
            out.write(part)
    assert len(told(path)) == 2
    assert differences(open_trace(path).manifest) == ""
