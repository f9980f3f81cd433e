"""From the worker thread to HTTP: one JSON at the end, or server-sent events as they come.

A client that goes away cancels its ticket, whichever way it is being answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..engine.engine import Engine, Event, Message, Steps, Ticket
from ..errors import ApiError

HEARTBEAT_S = 10.0
"""Seconds of silence after which a comment line keeps a waiting stream open."""


class Mailbox:
    """Messages of one ticket, carried from the worker thread into the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def put(self, message: Message) -> None:
        """Called by the worker; a loop that has ended has no one left to tell."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, message)

    async def get(self, timeout: float | None = None) -> Message:
        return await asyncio.wait_for(self._queue.get(), timeout)


def client_of(request: Request) -> str:
    """Who shares a turn: the `Moescope-Client` header, or the address the request comes from."""
    named = request.headers.get("moescope-client", "")[:100]
    return named or (request.client.host if request.client else "unknown")


def submit(engine: Engine, request: Request, make: Callable[[Any], Steps]) -> tuple[Ticket, Mailbox]:
    """Queue a request whose answer this HTTP request waits for."""
    mailbox = Mailbox()
    timeout = engine.limits.request_s
    return engine.submit(make, mailbox.put, client=client_of(request), timeout_s=timeout), mailbox


async def collect(engine: Engine, request: Request, make: Callable[[Any], Steps]) -> list[Event]:
    """All events of a request. Raises the `ApiError` that ended it."""
    ticket, mailbox = submit(engine, request, make)
    watcher = asyncio.create_task(_cancel_when_gone(request, ticket))
    events: list[Event] = []
    try:
        while (message := await mailbox.get()).kind == "event":
            events.append(message.event or {})
    finally:
        watcher.cancel()
        ticket.cancel()
    if message.error is not None:
        raise message.error
    return events


async def _cancel_when_gone(request: Request, ticket: Ticket) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    ticket.cancel()


class EventStream(StreamingResponse):
    """A request's events as `data: {...}` lines; an error ends the stream as `data: {"error": {...}}`."""

    def __init__(self, ticket: Ticket, mailbox: Mailbox) -> None:
        self.ticket = ticket
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_lines(mailbox), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.cancel()


async def _lines(mailbox: Mailbox) -> AsyncIterator[bytes]:
    while True:
        try:
            message = await mailbox.get(HEARTBEAT_S)
        except TimeoutError:
            yield b": waiting\n\n"
            continue
        if message.kind == "done":
            return
        event = message.event if message.error is None else message.error.to_json()
        yield b"data: " + encode(event) + b"\n\n"
        if message.kind == "error":
            return


def encode(data: Any) -> bytes:
    """JSON on one line; numbers that JSON cannot write are an error here and never a silent NaN."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class Json(JSONResponse):
    """JSON that is never cached."""

    def __init__(self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(content, status_code, {"Cache-Control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        return encode(content)


def error_response(error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return Json(error.to_json(), error.status, headers)
