"""The events of one generation, as the server sends them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

from .connection import ServerError

Event = dict[str, Any]


class Generation(Iterator[Event]):
    """The events of one generation; also a context manager."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._ended = False

    def __next__(self) -> Event:
        try:
            for line in self._response:
                if line.startswith(b"data: "):
                    return self._event(json.loads(line[6:]))
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._ended:  # closed by its reader
                raise StopIteration from None
            self.close()
            raise ServerError(0, f"the connection broke: {error}") from error
        whole, self._ended = self._ended, True
        self.close()
        if not whole:
            raise ServerError(0, "the connection closed before the answer was complete")
        raise StopIteration

    def _event(self, event: Event) -> Event:
        if "error" in event:
            self.close()
            raise ServerError(event["error"]["status"], event["error"]["message"])
        self._ended = bool(event.get("done"))
        return event

    def close(self) -> None:
        """Stop generating; may be called more than once."""
        self._ended = True
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
