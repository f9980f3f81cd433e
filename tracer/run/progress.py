"""What a run tells while it goes on, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .part_writer import Committed


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trace is; told after every batch."""

    prompts: int
    total_prompts: int
    tokens: int
    """Prompt tokens that have run, those of an earlier, resumed run not counted."""
    total_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
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
    """Counts what has run and tells it."""

    def __init__(
        self, todo: list[np.ndarray], lengths: np.ndarray, tell: Callable[[Progress], None] | None
    ) -> None:
        self._lengths = lengths
        self._tell = tell
        self._start = time.monotonic()
        self._prompts = self._tokens = 0
        self._total_prompts = sum(map(len, todo))
        self._total_tokens = int(sum(lengths[batch].sum() for batch in todo))
        self.count([])

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def count(self, numbers: list[int]) -> None:
        self._prompts += len(numbers)
        self._tokens += int(self._lengths[numbers].sum()) if numbers else 0
        if self._tell is not None:
            self._tell(
                Progress(
                    prompts=self._prompts,
                    total_prompts=self._total_prompts,
                    tokens=self._tokens,
                    total_tokens=self._total_tokens,
                    seconds=self.seconds,
                )
            )


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
