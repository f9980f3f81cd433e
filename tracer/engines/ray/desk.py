"""The desk: which prompts are at which worker, and the ledger of the trace. Knows nothing of Ray.

Every prompt is in one of three places: still to be dealt, with one living worker, or in the trace.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....store.errors import ResumeRefused
from ....store.files.manifest import Manifest, PartEntry
from ....store.write.ledger import Answer, Ledger, Reservation
from ....store.write.plain import ordered_capture, plain
from ....store.write.target import first_difference
from ...errors import TracerError

LOTS_A_WORKER = 8
"""Lots that each worker gets at least, where there are prompts enough: what is left at the end is shared evenly."""
LARGEST_LOT = 512


@dataclass(frozen=True)
class Standing:
    """How far a trace is."""

    ran: int
    """Prompts that have run, here and in earlier runs; of a worker that died only those it had committed."""
    tokens: int
    """Of those that ran in this run."""
    left: int
    """Prompts that are not in the trace."""
    waiting: int
    """Prompts that no worker has."""


class Desk:
    """See the module.

    Args:
        url: the trace.
        ids: of all prompts that are to be traced, in their order.
        workers: that are expected, for the size of a lot.
        prompt_set: what the manifest says of it.
        resume: go on with a trace that is there.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        ids: Sequence[str],
        workers: int,
        prompt_set: dict[str, Any],
        resume: bool = False,
    ) -> None:
        self._url, self._ids, self._prompt_set, self._resume = url, list(ids), prompt_set, resume
        self._lot = max(1, min(LARGEST_LOT, len(ids) // (LOTS_A_WORKER * workers)))
        self._ledger: Ledger | None = None
        self._waiting: deque[int] = deque()
        self._with: dict[str, set[int]] = {}
        self._ran: dict[int, int] = {}
        self._number = {prompt_id: number for number, prompt_id in enumerate(ids)}
        self._events = self._nan_tokens = self._prompts = self._resumed = 0

    def open(self, worker: str, described: dict[str, Any]) -> str:
        """A worker has its model. The first one's makes the manifest; others must be the same.

        Args:
            described: what `TraceWriter` takes of routers, model, settings, capture, weight type and steering.
        Returns:
            When the trace was created, as its manifest says.
        Raises:
            TracerError: this worker has another model, or other settings.
            StoreError: the trace can't be begun, or can't be resumed.
        """
        self._with.setdefault(worker, set())
        if self._ledger is None:
            self._ledger = Ledger(
                self._url, prompt_set=self._prompt_set, resume=self._resume, shared=True, **described
            )
            done = self._ledger.committed_prompts
            self._resumed = sum(prompt_id in done for prompt_id in self._ids)
            order = np.random.default_rng(0).permutation(len(self._ids)).tolist()
            self._waiting.extend(number for number in order if self._ids[number] not in done)
            return self._ledger.manifest.created
        mine = Manifest(
            model=plain(described["model"]),
            prompt_set=plain(self._prompt_set),
            settings=plain(described["settings"]),
            capture=ordered_capture(described["capture"]),
            weight_type=described["weight_type"],
            steering=None if described["steering"] is None else plain(described["steering"]),
            routers=list(described["routers"]),
        )
        if (difference := first_difference(mine, self._open.manifest, other="another worker")) is not None:
            raise TracerError(f"{worker} does not run what the others run: {difference}")
        return self._open.manifest.created

    def deal(self, worker: str) -> list[int] | None:
        """Numbers of prompts to run next; None where nothing waits."""
        if worker not in self._with or not self._waiting:
            return None
        lot = [self._waiting.popleft() for _ in range(min(self._lot, len(self._waiting)))]
        self._with[worker] |= set(lot)
        return sorted(lot)

    def ran(self, worker: str, tokens: dict[int, int]) -> None:
        """Prompts have run, with so many tokens each."""
        mine = self._with.get(worker, set())
        self._ran |= {number: count for number, count in tokens.items() if number in mine}

    def reserve(self, ids: Sequence[str], owner: str = "") -> Reservation:
        return self._open.reserve(ids, owner)

    def check(self, name: str) -> None:
        self._open.check(name)

    def commit(self, name: str, entry: PartEntry, owner: str = "", ids: Sequence[str] = ()) -> Answer:
        answer = self._open.commit(name, entry)
        if answer == "listed":
            self._with[owner] -= {self._number[prompt_id] for prompt_id in ids}
            self._prompts += entry.prompts
            self._events += entry.events
            self._nan_tokens += entry.nan_tokens
        return answer

    def release(self, name: str) -> None:
        self._open.release(name)

    def gone(self, worker: str) -> int:
        """A worker died: what it had not committed waits again, before anything else; returns how many prompts."""
        if self._ledger is not None:
            self._ledger.give_up(worker)
        lost = sorted(self._with.pop(worker, set()))
        for number in lost:
            self._ran.pop(number, None)
        self._waiting.extendleft(reversed(lost))
        return len(lost)

    def standing(self) -> Standing | None:
        """None before the first worker has its model."""
        if self._ledger is None:
            return None
        committed = self._resumed + self._prompts
        return Standing(
            ran=self._resumed + len(self._ran),
            tokens=sum(self._ran.values()),
            left=len(self._ids) - committed,
            waiting=len(self._waiting),
        )

    def finish(self, seconds: float, workers: int) -> dict[str, Any]:
        """End the trace, complete; what the summary says of it."""
        tokens = sum(self._ran.values())
        summary = {
            "prompts": self._prompts, "resumed_prompts": self._resumed, "tokens": tokens, "events": self._events,
            "routers": len(self._open.manifest.routers), "nan_tokens": self._nan_tokens, "accuracy": None,
            "seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else 0.0,
            "workers": workers,
        }  # fmt: skip
        told = {"url": self._open.folder.url, "state": "complete", **summary}
        self._open.finish(**told)
        self.close()
        return told

    def close(self) -> None:
        """Let go of the trace."""
        if self._ledger is not None:
            self._ledger.close()

    @property
    def _open(self) -> Ledger:
        if self._ledger is None:
            raise ResumeRefused("no worker has begun this trace")
        return self._ledger
