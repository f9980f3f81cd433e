"""The thread that turns captured batches into committed parts while the model runs on.

The queue is short: a model that is faster than the disk waits instead of filling the memory. An error in the
thread is raised in the thread that runs the model, at its next batch.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol, Self

from ...store.files.folder import is_far
from ...store.schema import Part
from .captured_batch import CapturedBatch
from .host_batch import PromptResult, host_batch
from .parts import PartCollector

PART_EVENTS = 750_000
PART_BYTES = 256 << 20
"""A part is committed when it holds this many events or bytes, whichever comes first."""
FAR_PART_EVENTS = 8_000_000
"""The same behind a URL: files of 100 MB and more, because each one costs a reader several requests. A killed run
loses more work there, up to what `PATIENCE` allows."""
PATIENCE = 20.0
"""Seconds after which a part is committed whatever its size, so that a short or slow run that is killed keeps most of
its work; from then on twice as many each time, so that a long run has few small parts."""
QUEUED = 3


class Writer(Protocol):
    """What takes the parts of a trace; `store.write.writer.TraceWriter` where one process records it all."""

    @property
    def url(self) -> str: ...

    @property
    def committed_prompts(self) -> set[str]:
        """Ids of prompts that need not run again."""
        ...

    def write(self, part: Part) -> None:
        """Commit whole prompts; returns when they are durable."""
        ...

    def finish(self, **summary: Any) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, where: Any, /) -> None: ...


def part_events_at(out: str | os.PathLike[str]) -> int:
    """How many events a part holds at an address."""
    return FAR_PART_EVENTS if is_far(out) else PART_EVENTS


@dataclass
class Committed:
    """How much is safely on disk."""

    prompts: int = 0
    tokens: int = 0
    events: int = 0
    nan_tokens: int = 0


class PartWriter:
    """Commits parts in the background; a context manager whose end waits for the last one.

    Left by an exception, it still commits the batches that were handed in, so that nothing done is lost.
    """

    def __init__(self, writer: Writer, collector: PartCollector, *, part_events: int | None = None) -> None:
        self._writer = writer
        self._collector = collector
        self._part_events = part_events_at(writer.url) if part_events is None else part_events
        self._queue: queue.Queue[tuple[CapturedBatch, list[PromptResult]] | threading.Event | None] = (
            queue.Queue(QUEUED)
        )
        self._error: BaseException | None = None
        self.committed = Committed()
        self._patience = PATIENCE
        self._due = math.inf
        self._thread = threading.Thread(target=self._run, name="moescope-writer", daemon=True)

    def __enter__(self) -> PartWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        self._put(None)
        while self._thread.is_alive():  # in slices, so that a second Ctrl-C gets through
            self._thread.join(0.2)
        if error is None:
            self._raise()

    def add(self, captured: CapturedBatch, results: list[PromptResult]) -> None:
        """Hand in a batch. Raises what went wrong with an earlier one."""
        self._put((captured, results))
        self._raise()

    def flush(self) -> None:
        """Commit what was handed in and wait for it. Raises what went wrong."""
        done = threading.Event()
        self._put(done)
        while self._thread.is_alive() and not done.wait(0.2):
            pass
        self._raise()

    def _put(self, item: tuple[CapturedBatch, list[PromptResult]] | threading.Event | None) -> None:
        while self._thread.is_alive():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        self._due = time.monotonic() + self._patience
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, threading.Event):
                    if self._collector.num_prompts:
                        self._commit()
                    item.set()
                    continue
                self._collector.add(host_batch(*item))
                if self._is_full() or self._is_late():
                    self._commit()
            if self._collector.num_prompts:
                self._commit()
        except BaseException as error:  # noqa: BLE001 - raised again where the model runs
            self._error = error

    def _is_full(self) -> bool:
        return self._collector.num_events >= self._part_events or self._collector.num_bytes >= PART_BYTES

    def _is_late(self) -> bool:
        late = time.monotonic() >= self._due
        self._patience *= 2 if late else 1
        return late

    def _commit(self) -> None:
        self._due = time.monotonic() + self._patience
        part = self._collector.part()
        self._writer.write(part)
        self.committed.prompts += part.prompts.num_rows
        self.committed.tokens += part.tokens.num_rows
        self.committed.events += sum(len(events.position) for events in part.events)
        self.committed.nan_tokens += sum(int(sums.nan_tokens.sum()) for sums in part.sums)
