"""One server's address and token; every call has a connection of its own, so that threads may share it."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit


class ServerError(RuntimeError):
    """The server refused or failed; `status` is 0 where it could not be reached at all."""

    def __init__(self, status: int, message: str, field: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.field = field
        self.retry_after = retry_after


class Connection:
    """Asks one server as one person.

    Args:
        name: whose requests these are: requests take turns by name (by address where there is none).
        timeout: seconds until an answer must have begun.
    Raises:
        ValueError: not an http address.
    """

    def __init__(self, url: str, token: str, name: str | None, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http address: {url!r}")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._parts = parts
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if name:
            self._headers["Moescope-Client"] = name

    def json(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> dict[str, Any]:
        """The whole answer. Raises `ServerError` where the server refuses or can't be reached."""
        connection, response = self.open(method, path, body, timeout)
        try:
            return json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ServerError(0, f"{self.url} broke the connection: {error}") from error
        finally:
            connection.close()

    def open(
        self, method: str, path: str, body: Any = None, timeout: float | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The answer as it begins, to be read and closed by the caller."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=timeout or self.timeout)
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, data, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ServerError(0, f"{self.url} does not answer: {error}") from error
        if response.status >= 400:
            with closing(connection):
                raise _refusal(response)
        return connection, response


def _refusal(response: http.client.HTTPResponse) -> ServerError:
    text = response.read()
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": text.decode(errors="replace")[:300] or response.reason}
    after = response.headers.get("Retry-After")
    return ServerError(
        response.status,
        error["message"],
        error.get("field"),
        int(after) if after and after.isdigit() else None,
    )
