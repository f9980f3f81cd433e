"""A job that runs on the server."""

from __future__ import annotations

import time
from typing import Any

from .connection import Connection, ServerError

Event = dict[str, Any]


class RemoteJob:
    """A trace or an evaluation on the server."""

    def __init__(self, connection: Connection, kind: str, job_id: str) -> None:
        self._connection = connection
        self.path = f"/v1/{kind}/{job_id}"
        self.id = job_id

    def status(self) -> Event:
        """{"state", "progress", "seconds", "result", "error"}."""
        return self._connection.json("GET", self.path)

    def cancel(self) -> Event:
        return self._connection.json("DELETE", self.path)

    def wait(self, poll_s: float = 0.2) -> Event:
        """The status once the job has ended. Raises `ServerError` where it failed."""
        while (status := self.status())["state"] in ("waiting", "running"):
            time.sleep(poll_s)
        if status["state"] == "failed":
            raise ServerError(500, status["error"])
        return status
