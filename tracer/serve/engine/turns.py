"""Work that is written to run in one go, made to take turns: it runs in a thread of its own, and stops at places
that it names until its next turn.

Only one of the two threads runs at any time. What the work has attached to the model is set aside while it waits,
so that others find the model as it was before the work began.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...hooks import taps

Pause = Callable[[Any], None]


class Stopped(BaseException):
    """Raised inside the work where it waits, once nobody wants its result any more."""


def in_turns(
    model: Any, work: Callable[[Pause], Any], *, clear: Callable[[], None]
) -> Iterator[tuple[str, Any]]:
    """Run `work(pause)` turn by turn.

    Args:
        model: what it records and steers.
        work: calls `pause(value)` wherever others may go first.
        clear: called before every turn, to take away what others still have in force on the model.
    Yields:
        ("pause", value) for every pause, at last ("end", what the work returned). Closing the iterator stops the
        work at the place where it waits.
    Raises:
        Whatever the work raises.
    """
    return _Turns(model, work, clear).steps()


class _Turns:
    def __init__(self, model: Any, work: Callable[[Pause], Any], clear: Callable[[], None]) -> None:
        self._model = model
        self._clear = clear
        self._work = work
        self._go = threading.Semaphore(0)
        self._came_back = threading.Semaphore(0)
        self._said: tuple[str, Any] = ("", None)
        self._stopped = False
        self._house: dict[Any, taps.Users] = {}
        self._thread = threading.Thread(target=self._run, name="moescope-turns", daemon=True)

    def steps(self) -> Iterator[tuple[str, Any]]:
        self._thread.start()
        try:
            while self._said[0] != "end":
                self._turn()
                if self._said[0] == "error":
                    raise self._said[1]
                yield self._said
        finally:
            self._stopped = True
            while self._thread.is_alive() and self._said[0] not in ("end", "error"):
                self._turn()
            self._thread.join()

    def _turn(self) -> None:
        self._clear()
        self._house = taps.users(self._model)
        self._go.release()
        self._came_back.acquire()

    def _pause(self, value: Any) -> None:
        mine = taps.users(self._model)
        taps.hand_over(self._model, self._house)
        self._say("pause", value)
        self._go.acquire()
        taps.hand_over(self._model, mine)
        if self._stopped:
            raise Stopped

    def _run(self) -> None:
        self._go.acquire()
        try:
            said = ("end", None) if self._stopped else ("end", self._work(self._pause))
        except Stopped:
            said = ("end", None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            said = ("error", error)
        self._say(*said)

    def _say(self, kind: str, value: Any) -> None:
        self._said = (kind, value)
        self._came_back.release()
