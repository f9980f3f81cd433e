"""Starts a script that forks writers, and talks with it: see crash_zygote.py and tracer_zygote.py."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 240.0
"""Seconds without a word after which a writer counts as stuck; long, because test machines are shared."""


class Zygote:
    """One at a time: `start` a child, then read the `rest` of what it says."""

    def __init__(self, script: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._pending = b""

    def start(self, request: str) -> int:
        """The pid of a child that does what the line asks."""
        assert self._process.stdin is not None
        self._process.stdin.write(request.encode() + b"\n")
        lines = [self._line()]
        while not lines[-1].startswith("pid"):
            lines.append(self._line())
        self._told = lines[:-1]
        return int(lines[-1].split()[1])

    def rest(self) -> list[str]:
        """Everything that the child said, when it has ended."""
        told = self._told
        while not told or told[-1] != "ended":
            told.append(self._line())
        return told

    def wait(self, seconds: float) -> None:
        """Until the child ends, but no longer than that."""
        until = time.monotonic() + seconds
        while (self._told or [""])[-1] != "ended" and (left := until - time.monotonic()) > 0:
            if self._hears(left) and b"\n" in self._pending:
                self._told.append(self._line())

    def seconds_of(self, request: str) -> float:
        """How long a child takes that nobody kills; the script's own start does not count."""
        self.start(request)
        started = time.monotonic()
        assert "done" in self.rest()
        return time.monotonic() - started

    def _line(self) -> str:
        while b"\n" not in self._pending:
            assert self._hears(PATIENCE), "the writer is stuck"
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def _hears(self, seconds: float) -> bool:
        """Whether there is a whole line, or something more was said in time."""
        assert self._process.stdout is not None
        if b"\n" in self._pending:
            return True
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if ready:
            self._pending += os.read(self._process.stdout.fileno(), 4096)
        return bool(ready)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def committed(told: list[str]) -> int:
    """Prompts that a child said it had committed before it ended."""
    return max([0, *(int(line.split()[1]) for line in told if line.startswith("committed"))])


def kill_and_resume(
    zygote: Zygote, request: str, usual: float, rng: random.Random, check: Callable[[int], object]
) -> int:
    """Kill and resume one trace until a run gets through.

    Args:
        usual: seconds that a whole run takes.
        check: called with the number of prompts that are committed at least, after each run.
    Returns:
        How many runs were killed before they were done.
    """
    kills = 0
    while True:
        pid = zygote.start(request)
        zygote.wait(rng.random() * usual * rng.choice([0.3, 1.2]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        told = zygote.rest()
        check(committed(told))
        if "done" in told:
            return kills
        kills += 1
