"""A writer that dies, at whatever moment, costs at most the part that it was writing."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from zygote import Zygote, committed, kill_and_resume

from moescope.store import Trace, open_trace
from moescope.store.errors import NotATrace
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=24, tokens_per_prompt=6, layers=2, experts=8, top_k=2, part_tokens=12, seed=3)


def asked(folder: Path, plan: Synthetic, crash_at: int = 0, whole_parts: int = 3) -> str:
    """Few parts are listed in trace.json itself, so that most commits are files beside it."""
    told = {"folder": str(folder), "plan": asdict(plan), "crash_at": crash_at, "whole_parts": whole_parts}
    return json.dumps(told)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote(Path(__file__).parent.parent / "crash_zygote.py")
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What an uninterrupted run gives."""
    path = tmp_path_factory.mktemp("whole") / "trace"
    write_synthetic(path, PLAN)
    return open_trace(path)


def check_survivor(folder: Path, at_least: int, whole: Trace) -> Trace | None:
    """Everything that was committed is there and whole; nothing else is."""
    try:
        trace = open_trace(folder)
    except NotATrace:
        assert at_least == 0
        return None
    assert trace.problems == []
    assert trace.verify() == []
    assert trace.num_prompts >= at_least
    assert trace.state in ("partial", "complete")
    expected = whole.prompts()["prompt_id"].to_pylist()[: trace.num_prompts]
    assert trace.prompts()["prompt_id"].to_pylist() == expected
    return trace


def same(found: Trace, whole: Trace) -> None:
    order = [("layer", "ascending"), ("prompt_id", "ascending"), ("position", "ascending")]
    assert found.events().sort_by(order).equals(whole.events().sort_by(order))
    assert found.tokens().equals(whole.tokens())
    assert found.prompts().equals(whole.prompts())
    assert found.view("load", by="language").equals(whole.view("load", by="language"))


@pytest.mark.timeout(900)
def test_sigkill_at_many_random_moments(zygote: Zygote, whole: Trace, tmp_path: Path) -> None:
    rng = random.Random(1)
    usual = zygote.seconds_of(asked(tmp_path / "timed", PLAN))
    kills, folders = 0, 0
    while kills < 35:
        folder = tmp_path / f"trace-{folders}"
        folders += 1
        kills += kill_and_resume(
            zygote, asked(folder, PLAN), usual, rng, lambda least, at=folder: check_survivor(at, least, whole)
        )
        assert open_trace(folder).state == "complete"
        same(open_trace(folder), whole)


@pytest.mark.timeout(900)
def test_a_crash_at_every_single_step_of_four_parts(zygote: Zygote, tmp_path: Path) -> None:
    """The first is listed in trace.json, the others in files beside it, of which the last two are replaced."""
    plan = Synthetic(prompts=4, tokens_per_prompt=6, layers=1, experts=4, top_k=1, part_tokens=6, seed=3)
    write_synthetic(tmp_path / "whole", plan)
    whole = open_trace(tmp_path / "whole")
    assert len(whole.parts) == 4
    step, done = 0, False
    while not done:
        step += 1
        folder = tmp_path / f"step-{step}"
        zygote.start(asked(folder, plan, step, whole_parts=1))
        told = zygote.rest()
        done = "done" in told
        check_survivor(folder, committed(told), whole)
        zygote.start(asked(folder, plan, whole_parts=1))
        assert "done" in zygote.rest()
        found = open_trace(folder)
        assert found.events().equals(whole.events())
        assert found.prompts().equals(whole.prompts())
        assert not [p for p in folder.rglob("*") if p.name.endswith(".writing")]
        assert {p.name for p in folder.glob("trace.json*")} == {"trace.json"}
    assert step > 80


def test_a_reader_beside_the_writer_sees_only_whole_parts(
    zygote: Zygote, whole: Trace, tmp_path: Path
) -> None:
    folder = tmp_path / "trace"
    pid = zygote.start(asked(folder, PLAN))
    seen, states = [], set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(NotATrace):
            trace = open_trace(folder)
            states.add(trace.state)
            assert trace.problems == []
            assert trace.events(columns=["experts"]).num_rows == trace.num_events
            seen.append(trace.num_events)
            if trace.state == "complete":
                break
    assert pid
    assert "done" in zygote.rest()
    assert seen == sorted(seen)
    assert seen[-1] == whole.num_events
    assert states <= {"running", "partial", "complete"}
