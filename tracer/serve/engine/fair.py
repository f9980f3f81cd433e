"""A fair queue: clients take turns, and the requests of one client take turns within theirs.

At most `active` entries take turns; the others wait, and the client with the fewest active entries is
promoted first. Not thread-safe: the engine holds its lock around every call.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """What the queue needs to know of a request."""

    @property
    def client(self) -> str: ...


E = TypeVar("E", bound=Entry)


class QueueFull(Exception):
    """No room to wait."""


class FairQueue(Generic[E]):
    """Round-robin over clients, then over the requests of a client."""

    def __init__(self, active: int, queued: int) -> None:
        self.active_limit = active
        self.queued_limit = queued
        self._turns: dict[str, deque[E]] = {}
        self._waiting: dict[str, deque[E]] = {}

    def __len__(self) -> int:
        return self.num_active + self.num_waiting

    @property
    def num_active(self) -> int:
        return sum(map(len, self._turns.values()))

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def entries(self) -> list[E]:
        """Everything in the queue, active first."""
        return [entry for part in (self._turns, self._waiting) for line in part.values() for entry in line]

    def add(self, entry: E) -> None:
        """Let an entry take turns, or wait for that. Raises `QueueFull`."""
        if len(self) >= self.active_limit + self.queued_limit:
            raise QueueFull
        self._waiting.setdefault(entry.client, deque()).append(entry)
        self._promote()

    def next(self) -> E | None:
        """The entry whose turn it is; it stays in the queue, behind the others."""
        for client in self._turns:
            line = self._turns.pop(client)
            line.rotate(-1)
            self._turns[client] = line
            return line[-1]
        return None

    def remove(self, entry: E) -> None:
        """Take an entry out; the next one that waits moves up."""
        for part in (self._turns, self._waiting):
            line = part.get(entry.client)
            if line is not None and entry in line:
                line.remove(entry)
                if not line:
                    del part[entry.client]
        self._promote()

    def _promote(self) -> None:
        while self._waiting and self.num_active < self.active_limit:
            client = min(self._waiting, key=lambda name: len(self._turns.get(name, ())))
            line = self._waiting[client]
            self._turns.setdefault(client, deque()).append(line.popleft())
            if not line:
                del self._waiting[client]
