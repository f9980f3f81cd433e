"""A writer that dies, at whatever moment, costs at most the part that it was writing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from moescope.store import Trace, open_trace
from moescope.store.errors import NotATrace
from moescope.store.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(prompts=24, tokens_per_prompt=6, layers=2, experts=8, top_k=2, part_tokens=12, seed=3)


class Zygote:
    def __init__(self) -> None:
        script = Path(__file__).parent / "crash_zygote.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._pending = b""

    def start(self, folder: Path, plan: Synthetic, crash_at: int = 0) -> int:
        request = {"folder": str(folder), "plan": asdict(plan), "crash_at": crash_at}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        lines = [self._line()]
        while not lines[-1].startswith("pid"):
            lines.append(self._line())
        self._told = lines[:-1]
        return int(lines[-1].split()[1])

    def _line(self, patience: float = 60.0) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], patience)
            assert ready, "the writer is stuck"
            self._pending += os.read(self._process.stdout.fileno(), 4096)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def rest(self) -> list[str]:
        """Everything that the child said, when it has ended."""
        told = self._told
        while not told or told[-1] != "ended":
            told.append(self._line())
        return told

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What an uninterrupted run gives."""
    path = tmp_path_factory.mktemp("whole") / "trace"
    write_synthetic(path, PLAN)
    return open_trace(path)


def committed(told: list[str]) -> int:
    return max([0, *(int(line.split()[1]) for line in told if line.startswith("committed"))])


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
    started = time.monotonic()
    zygote.start(tmp_path / "timed", PLAN)
    assert "done" in zygote.rest()
    usual = time.monotonic() - started
    kills, folders = 0, 0
    while kills < 55:
        folder = tmp_path / f"trace-{folders}"
        folders += 1
        while True:
            pid = zygote.start(folder, PLAN)
            time.sleep(rng.random() * usual * rng.choice([0.3, 1.5]))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            told = zygote.rest()
            trace = check_survivor(folder, committed(told), whole)
            if "done" in told:
                break
            kills += 1
        assert trace is not None
        assert trace.state == "complete"
        same(trace, whole)


@pytest.mark.timeout(900)
def test_a_crash_at_every_single_step_of_two_parts(zygote: Zygote, tmp_path: Path) -> None:
    plan = Synthetic(prompts=4, tokens_per_prompt=6, layers=1, experts=4, top_k=1, part_tokens=12, seed=3)
    write_synthetic(tmp_path / "whole", plan)
    whole = open_trace(tmp_path / "whole")
    step, done = 0, False
    while not done:
        step += 1
        folder = tmp_path / f"step-{step}"
        zygote.start(folder, plan, crash_at=step)
        told = zygote.rest()
        done = "done" in told
        check_survivor(folder, committed(told), whole)
        zygote.start(folder, plan)
        assert "done" in zygote.rest()
        same(open_trace(folder), whole)
        assert not [p for p in folder.rglob("*") if p.name.endswith(".writing")]
    assert step > 40


def test_a_reader_beside_the_writer_sees_only_whole_parts(
    zygote: Zygote, whole: Trace, tmp_path: Path
) -> None:
    folder = tmp_path / "trace"
    pid = zygote.start(folder, PLAN)
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
