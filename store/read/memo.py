"""Results that a trace remembers for as long as its parts are the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import numpy as np
import pyarrow as pa

R = TypeVar("R", bound=tuple)

KEPT_BYTES = 192 << 20


class Memo:
    """Tuples by key; those used least recently go when their arrays and tables exceed `KEPT_BYTES`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple] = OrderedDict()
        self._bytes = 0

    def find(self, key: Hashable) -> tuple | None:
        """What was kept under the key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def get(self, key: Hashable, make: Callable[[], R]) -> R:
        """What `make` gives, or gave under the same key. Nobody may change its arrays."""
        found = self.find(key)
        if found is not None:
            return found  # pyright: ignore[reportReturnType]
        made = make()
        self.put(key, made)
        return made

    def put(self, key: Hashable, made: tuple) -> None:
        """Keep what was worked out beside something else, unless it is there."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += _size(made)
            while self._bytes > KEPT_BYTES:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(value: tuple) -> int:
    return sum(item.nbytes for item in value if isinstance(item, np.ndarray | pa.Table))
