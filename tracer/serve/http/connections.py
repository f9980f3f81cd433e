"""Connections that ask nothing: closed after a while, and the oldest of them wherever there are many.

A connection costs its opener nothing before the token is looked at. So one peer that opens hundreds and sends half a
header must not keep others out, itself included: a request that arrives whole is always served.

1. Whoever has begun a header has `Limits.header_s` to end it.
2. Of connections on which no request is under way, a peer has at most `Limits.waiting`, and all peers together twice as
   many; one more closes the oldest, those that had an answer before first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ..limits import Limits


class Waiting:
    """Connections of one server on which no request is under way, the oldest first."""

    def __init__(self, per_peer: int):
        self._per_peer = per_peer
        self._open: dict[PatientProtocol, None] = {}

    def add(self, connection: PatientProtocol) -> None:
        self._open[connection] = None
        of_peer = [other for other in self._open if other.peer == connection.peer]
        if len(of_peer) > self._per_peer:
            _least_missed(of_peer).drop()
        elif len(self._open) > 2 * self._per_peer:
            _least_missed(self._open).drop()

    def remove(self, connection: PatientProtocol) -> None:
        self._open.pop(connection, None)


def _least_missed(connections: Iterable[PatientProtocol]) -> PatientProtocol:
    """The oldest that got an answer before, which a client opens anew without a word; else the oldest."""
    return min(connections, key=lambda one: one.cycle is None)


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP protocol with a limit to its patience. `with_limits` makes the class of one server."""

    header_s: float
    waiting: Waiting
    _late: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        self.waiting.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self.waiting.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_idle:
            self._unwatch()
            self.waiting.remove(self)
        elif not self.transport.is_closing():
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle and not self.transport.is_closing():
            self.waiting.add(self)

    def drop(self) -> None:
        """Close at once; nothing was asked that could be answered."""
        self._unwatch()
        self.waiting.remove(self)
        self.transport.abort()

    def _watch(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.header_s, self.drop)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def with_limits(limits: Limits) -> type[Any]:
    """The protocol class of one server."""
    of_server = {"header_s": limits.header_s, "waiting": Waiting(limits.waiting)}
    return type("PatientProtocol", (PatientProtocol,), of_server)
