"""Builds parts and puts their files into the trace's folder, under names that a ledger gives.

It runs where the model runs: in the process of the ledger, or in any other that reaches the folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from ..errors import plain_os_errors
from ..files.folder import Folder
from ..files.manifest import TABLES, PartEntry
from ..schema import Part, RouterSpec
from .ledger import Answer, Reservation
from .parts import PartBuilder

PAUSE_SECONDS = 0.1
"""Between two questions whether it is a part's turn to be listed."""


class Listing(Protocol):
    """What a putter asks of a ledger, perhaps over a network."""

    def reserve(self, ids: Sequence[str], owner: str = "") -> Reservation: ...

    def check(self, name: str) -> None: ...

    def commit(self, name: str, entry: PartEntry) -> Answer: ...

    def release(self, name: str) -> None: ...


class PartPutter:
    """Puts parts of one trace.

    Args:
        owner: name of this process, by which the ledger gives it up.
    """

    def __init__(
        self,
        folder: Folder,
        ledger: Listing,
        *,
        routers: Sequence[RouterSpec],
        capture: Sequence[str],
        weight_type: str,
        owner: str = "",
    ) -> None:
        self._folder, self._ledger, self._owner = folder, ledger, owner
        self._builder = PartBuilder(routers, capture, weight_type)

    def write(self, part: Part) -> list[str]:
        """Commit whole prompts; returns their ids when they are durable and listed.

        Raises:
            BadPart: the part contradicts itself, or repeats a prompt.
            TraceLocked: another writer took over the trace, or this process was given up.
            StoreError: disk full, folder gone, ...; what was committed before stays readable.
        """
        ids: list[Any] = part.prompts["prompt_id"].to_pylist()
        reservation = self._ledger.reserve(ids, self._owner)
        try:
            while (answer := self._put_and_ask(part, reservation)) != "listed":
                assert isinstance(answer, Reservation)
                self._remove(reservation.name)
                reservation = answer
        except BaseException:
            self._ledger.release(reservation.name)
            raise
        return ids

    def _put_and_ask(self, part: Part, reservation: Reservation) -> Answer:
        name = reservation.name
        entry = self._builder.build(part, name, reservation.first_prompt, partial(self._put, name))
        while (answer := self._ledger.commit(name, entry)) == "wait":
            time.sleep(PAUSE_SECONDS)
        return answer

    def _put(self, name: str, table: str, data: memoryview) -> None:
        self._ledger.check(name)
        with plain_os_errors(f"{self._folder.url}: {name} could not be written"):
            self._folder.put(f"{table}/{name}.parquet", data)

    def _remove(self, name: str) -> None:
        for table in TABLES:
            self._folder.remove(f"{table}/{name}.parquet")
