"""One worker thread owns the model and takes the requests' steps in turn.

A request is a generator that does one forward pass (or a few) between two yields, and yields events. Every pass
goes through the one `LiveModel`, which puts exactly that request's steering in force and no other's. A request that
is cancelled is closed in the worker thread before its next step. When the last request has ended the model is left
as it was loaded, before that request hears of its end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ....store.amount import amount
from ...errors import TracerError
from ..errors import ApiError
from ..limits import Limits
from .fair import FairQueue, QueueFull

log = logging.getLogger("moescope.serve")

Event = dict[str, Any]
Steps = Iterator[Event | None]
State = Literal["loading", "ready", "failed", "closed"]


class Message(NamedTuple):
    """What the worker tells the one who asked: events, and at last `done` or `error`."""

    kind: Literal["event", "done", "error"]
    event: Event | None = None
    error: ApiError | None = None


@dataclass(eq=False)
class Ticket:
    """A request in the engine."""

    client: str
    make: Callable[[Any], Steps]
    """Builds the generator from the loaded model; called in the worker thread."""
    sink: Callable[[Message], None]
    """Told of every event, in the worker thread; must not block."""
    deadline: float | None
    steps: Steps | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    wake: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Stop before the next step; may be called from any thread and more than once."""
        self.cancelled.set()
        self.wake()


class Engine:
    """Loads a model in its worker thread, then serves it step by step.

    Args:
        load: returns what the requests' `make` functions receive; its `rest`, if it has one, is called
            when the last request has ended, its `close` at the end.
    """

    def __init__(self, load: Callable[[], Any], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.state: State = "loading"
        self.reason = ""
        self.loaded: Any = None
        self.steps_taken = 0
        self._load = load
        self._queue: FairQueue[Ticket] = FairQueue(self.limits.active, self.limits.queued)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="moescope-model", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> dict[str, int]:
        """How many requests take turns and how many wait."""
        with self._changed:
            return {"active": self._queue.num_active, "waiting": self._queue.num_waiting}

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the model is loaded (True) or could not be (False)."""
        with self._changed:
            self._changed.wait_for(lambda: self.state != "loading", timeout)
            return self.state == "ready"

    def require_ready(self) -> Any:
        """What was loaded. Raises `ApiError` 503 while the model is not there."""
        if self.state == "ready":
            return self.loaded
        if self.state == "loading":
            raise ApiError(503, "the model is still being loaded", retry_after=2)
        raise ApiError(503, f"no model is loaded: {self.reason or 'the server is stopping'}")

    def submit(
        self,
        make: Callable[[Any], Steps],
        sink: Callable[[Message], None],
        *,
        client: str,
        timeout_s: float | None = None,
    ) -> Ticket:
        """Queue a request. Raises `ApiError` 503 (no model) or 429 (no room)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        ticket = Ticket(client, make, sink, deadline, wake=self._wake)
        with self._changed:
            self.require_ready()
            try:
                self._queue.add(ticket)
            except QueueFull:
                message = f"already running or waiting: {amount(len(self._queue), 'request')}"
                raise ApiError(429, message, retry_after=5) from None
            self._changed.notify_all()
        return ticket

    def close(self, timeout: float = 10.0) -> None:
        """Stop the worker after its current step; every request that is left gets an error."""
        with self._changed:
            if self.state != "failed":
                self.state = "closed"
            self._changed.notify_all()
        self._thread.join(timeout)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            loaded = self._load()
        except Exception as error:
            if not isinstance(error, TracerError):
                log.error("the model could not be loaded", exc_info=error)
            self._fail(f"{type(error).__name__}: {error}")
            return
        with self._changed:
            self.loaded = loaded
            if self.state == "loading":
                self.state = "ready"
            self._changed.notify_all()
        while (ticket := self._take()) is not None:
            self._step(ticket)
        self._drop_all()
        if hasattr(loaded, "close"):
            loaded.close()

    def _take(self) -> Ticket | None:
        with self._changed:
            self._changed.wait_for(lambda: self.state != "ready" or len(self._queue) > 0)
            if self.state != "ready":
                return None
            gone = [ticket for ticket in self._queue.entries() if ticket.cancelled.is_set()]
            return gone[0] if gone else self._queue.next()

    def _step(self, ticket: Ticket) -> None:
        try:
            if ticket.cancelled.is_set():
                raise ApiError(499, "cancelled")
            if ticket.deadline is not None and time.monotonic() > ticket.deadline:
                raise ApiError(504, "the request took longer than the server allows")
            if ticket.steps is None:
                ticket.steps = ticket.make(self.loaded)
            event = next(ticket.steps)
            self.steps_taken += 1
            if event is not None:
                ticket.sink(Message("event", event=event))
        except StopIteration:
            self._finish(ticket, Message("done"))
        except ApiError as error:
            self._finish(ticket, Message("error", error=error))
        except Exception as error:
            log.exception("a request failed")
            self._finish(ticket, Message("error", error=explain(error)))
            if is_fatal(error):
                self._fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")

    def _finish(self, ticket: Ticket, message: Message) -> None:
        with self._changed:
            self._queue.remove(ticket)
            idle = len(self._queue) == 0
        close = getattr(ticket.steps, "close", None)
        if close is not None:
            close()
        ticket.steps = None
        if idle and hasattr(self.loaded, "rest"):
            self.loaded.rest()
        ticket.sink(message)

    def _fail(self, reason: str) -> None:
        with self._changed:
            self.state, self.reason = "failed", reason
            self._changed.notify_all()

    def _drop_all(self) -> None:
        with self._changed:
            left = self._queue.entries()
        for ticket in left:
            reason = f"the model process failed: {self.reason}" if self.reason else "the server is stopping"
            self._finish(ticket, Message("error", error=ApiError(503, reason)))


def explain(error: Exception) -> ApiError:
    """A failure of the model as an answer: what happened, without the server's internals."""
    name = type(error).__name__
    if name in ("OutOfMemoryError", "MemoryError"):
        return ApiError(507, "out of memory: shorten the prompt, or ask for fewer tokens or prompts")
    if is_fatal(error):
        return ApiError(503, "the model process failed and must be restarted")
    return ApiError(
        500, f"the model failed: {name}: {str(error).splitlines()[0][:300] if str(error) else ''}"
    )


def is_fatal(error: Exception) -> bool:
    """Whether the device is unusable after this error, as after a device-side assert in CUDA."""
    text = str(error)
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in text or "device-side assert" in text
