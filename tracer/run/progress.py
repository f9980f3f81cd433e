"""What a run tells while it goes on, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .part_writer import Committed


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trace is; told after every batch, and after every new token of a batch that generates."""

    prompts: int
    total_prompts: int
    tokens: int
    """Prompt tokens that have run, those of an earlier, resumed run not counted."""
    total_tokens: int
    seconds: float
    generating: int = 0
    """Prompts whose answers are being generated; `step` tokens of each so far, `steps` at most."""
    step: int = 0
    steps: int = 0
    share: float | None = None
    """0..1 of all work, the tokens that may be generated counted; None: not told."""
    left_s: float | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        if self.left_s is not None:
            return self.left_s
        rate = self.tokens_per_second
        return (self.total_tokens - self.tokens) / rate if rate > 0 else None


@dataclass(frozen=True, kw_only=True)
class TraceSummary:
    """What a run has done."""

    url: str
    state: str
    prompts: int
    """Committed by this run; `resumed_prompts` were there before."""
    resumed_prompts: int
    tokens: int
    events: int
    routers: int
    nan_tokens: int
    """Events whose router logits held a NaN."""
    accuracy: float | None
    """Share of this run's multiple-choice prompts that were answered rightly."""
    seconds: float
    tokens_per_second: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Counts what has run and tells it.

    Work is counted in tokens: those of the prompts, and for each prompt as many new ones as may be generated, because
    it is not known where an answer ends.
    """

    def __init__(
        self, todo: list[np.ndarray], lengths: np.ndarray, tell: Callable[[Progress], None] | None,
        new_tokens: int = 0,
    ) -> None:  # fmt: skip
        self._lengths, self._tell, self._new = lengths, tell, new_tokens
        self._start = time.monotonic()
        self._prompts = self._tokens = 0
        self._total_prompts = sum(map(len, todo))
        self._total_tokens = int(sum(lengths[batch].sum() for batch in todo))
        self._running, self._step = np.empty(0, np.int64), 0
        self._batches = 0
        self._first = (0.0, 0.0)
        """Work and seconds of the first batch, which is slower: it is checked, and the model is cold."""
        self.count([])

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count."""
        began = time.monotonic()
        yield
        self._start += time.monotonic() - began

    def count(self, numbers: list[int]) -> None:
        """These prompts have run."""
        self._prompts += len(numbers)
        self._tokens += int(self._lengths[numbers].sum()) if numbers else 0
        self._running, self._step = self._running[:0], 0
        self._batches += bool(numbers)
        if self._batches == 1 and numbers:
            self._first = (self._work, self.seconds)
        self._told()

    def step(self, numbers: list[int], step: int) -> None:
        """For these prompts so many tokens have been generated."""
        self._running, self._step = np.asarray(numbers, np.int64), step
        self._told()

    @property
    def _work(self) -> float:
        running = self._lengths[self._running].sum() + len(self._running) * self._step
        return float(self._tokens + self._prompts * self._new + running)

    @property
    def share(self) -> float:
        """0..1 of all work."""
        total = self._total_tokens + self._total_prompts * self._new
        return self._work / total if total else 1.0

    @property
    def left_s(self) -> float | None:
        """Seconds to the end, at the pace since the first batch; at its own pace until a second one has run."""
        work, seconds = self._first if self._batches > 1 else (0.0, 0.0)
        done, took = self._work - work, self.seconds - seconds
        if done <= 0 or took <= 0:
            return None
        total = self._total_tokens + self._total_prompts * self._new
        return (total - self._work) * took / done

    def now(self) -> Progress:
        """How far it is."""
        return Progress(
            prompts=self._prompts,
            total_prompts=self._total_prompts,
            tokens=self._tokens,
            total_tokens=self._total_tokens,
            seconds=self.seconds,
            generating=len(self._running),
            step=self._step,
            steps=self._new,
            share=self.share,
            left_s=self.left_s,
        )

    def _told(self) -> None:
        if self._tell is not None:
            self._tell(self.now())


def summary_of(
    url: str, committed: Committed, resumed: int, routers: int, accuracy: float | None, seconds: float
) -> TraceSummary:
    """The summary of a complete run."""
    return TraceSummary(
        url=url,
        state="complete",
        prompts=committed.prompts,
        resumed_prompts=resumed,
        tokens=committed.tokens,
        events=committed.events,
        routers=routers,
        nan_tokens=committed.nan_tokens,
        accuracy=accuracy,
        seconds=round(seconds, 3),
        tokens_per_second=round(committed.tokens / seconds, 1) if seconds > 0 else 0.0,
    )
