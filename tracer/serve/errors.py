"""What a request can fail with: an HTTP status and one sentence that says what to change."""

from __future__ import annotations

from typing import Any

from ..errors import LONGEST


class ApiError(Exception):
    """A failure that the client is told about.

    `field` names the part of the request that is wrong; `retry_after` is in seconds.
    """

    def __init__(
        self, status: int, message: str, *, field: str | None = None, retry_after: int | None = None
    ) -> None:
        self.message = message if len(message) <= LONGEST else f"{message[:LONGEST]} ..."
        super().__init__(self.message)
        self.status = status
        self.field = field
        self.retry_after = retry_after

    def to_json(self) -> dict[str, Any]:
        error: dict[str, Any] = {"status": self.status, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}
