"""Traces and evaluations in the background: started, looked at, cancelled.

A job is a ticket whose last event is kept as its progress, and whose event with a `result` is its outcome.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ApiError
from ..limits import Limits
from .engine import Engine, Event, Message, Steps, Ticket

KEPT = 100
"""Ended jobs that are remembered."""

JobState = Literal["waiting", "running", "complete", "cancelled", "failed"]


@dataclass
class Job:
    """One background job and what is known of it."""

    id: str
    kind: str
    state: JobState = "waiting"
    progress: Event = field(default_factory=dict)
    result: Any = None
    error: str | None = None
    started: float = field(default_factory=time.time)
    ended: float | None = None
    ticket: Ticket | None = None

    def to_json(self) -> dict[str, Any]:
        """State, seconds so far, the last progress, and the result or the error."""
        seconds = (self.ended or time.time()) - self.started
        data = {"id": self.id, "kind": self.kind, "state": self.state, "seconds": round(seconds, 3)}
        return {**data, "progress": self.progress, "result": self.result, "error": self.error}


class JobBoard:
    """The jobs of one server."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self, kind: str, make: Callable[[Any], Steps], **known: Any) -> Job:
        """Queue a job. Raises `ApiError` 429 where enough are under way."""
        with self._lock:
            if sum(job.ended is None for job in self._jobs.values()) >= self.limits.jobs:
                raise ApiError(429, f"{self.limits.jobs} jobs are already running or waiting", retry_after=30)
            job = Job(secrets.token_hex(8), kind, progress=dict(known))
            self._jobs[job.id] = job
        try:
            job.ticket = self.engine.submit(
                make, lambda message: self._note(job, message), client=f"job {job.id}"
            )
        except ApiError:
            with self._lock:
                del self._jobs[job.id]
            raise
        self._forget_old()
        return job

    def get(self, kind: str, job_id: str) -> Job:
        """Raises `ApiError` 404."""
        job = self._jobs.get(job_id)
        if job is None or job.kind != kind:
            raise ApiError(404, f"there is no {kind} with the id {job_id[:60]!r}")
        return job

    def list(self, kind: str) -> list[Job]:
        return [job for job in list(self._jobs.values()) if job.kind == kind]

    def cancel(self, kind: str, job_id: str) -> Job:
        """Stop a job before its next step; one that has ended stays as it is."""
        job = self.get(kind, job_id)
        if job.ended is None and job.ticket is not None:
            job.ticket.cancel()
        return job

    def _note(self, job: Job, message: Message) -> None:
        if message.kind == "event":
            event = dict(message.event or {})
            job.result = event.pop("result", job.result)
            job.state, job.progress = "running", {**job.progress, **event}
            return
        job.ended = time.time()
        if message.error is None:
            job.state = "complete"
        elif message.error.status == 499:
            job.state = "cancelled"
        else:
            job.state, job.error = "failed", message.error.message

    def _forget_old(self) -> None:
        with self._lock:
            ended = [job.id for job in self._jobs.values() if job.ended is not None]
            for job_id in ended[: max(0, len(ended) - KEPT)]:
                del self._jobs[job_id]
