"""The masks of the rule `mask`: for every token, which of its slots are executed.

Learned masks over the chosen experts (MC#, arXiv 2510.10962) are given as a Parquet file with a row for each (prompt,
position, layer, slot): `keep` is 1 where the slot is executed and 0 where it is dropped. Slot 0 is the expert with the
largest gate weight, and stays whatever the file says. What the file does not name stays too.

Nothing here imports torch or reads a file before it is asked for: the app checks profiles with these objects too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...store.schema import RouterSpec
from ..errors import SteeringError
from .recorded import TraceRecorded, recorded

COLUMNS = ("prompt", "position", "layer", "slot", "keep")


class SlotMask(ABC):
    """Which slots are executed. `told` is what a profile as JSON says of it."""

    told: str
    keeps_all = False
    """Whether it is known, without a look at a file, that nothing is dropped."""

    @abstractmethod
    def problem(self, spec: RouterSpec) -> str | None:
        """Why it cannot be applied at a router, or None."""

    @abstractmethod
    def keep(self, spec: RouterSpec, tokens: Sequence[int], first: int, width: int) -> np.ndarray:
        """Slots that stay, (n, width) bool, of the n tokens from `first` on of a text that begins with `tokens`."""


class EverySlot(SlotMask):
    """The same slots for every token."""

    def __init__(self, slots: Sequence[bool]) -> None:
        self.slots = tuple(slots)
        self.told = f"slots {', '.join(str(int(keep)) for keep in slots)} for every token"
        self.keeps_all = all(slots)

    def problem(self, spec: RouterSpec) -> str | None:
        return None

    def keep(self, spec: RouterSpec, tokens: Sequence[int], first: int, width: int) -> np.ndarray:
        row = (*self.slots, *(True,) * width)[:width]
        return np.tile(np.array(row, bool), (len(tokens) - first, 1))


class FileMask(SlotMask):
    """A Parquet file over the prompts of a trace: a text is found by its token ids, so every token is checked."""

    def __init__(self, path: str, trace: TraceRecorded) -> None:
        self.told, self.trace = path, trace
        table = _read(path)
        dropped = ~np.asarray(table["keep"]).astype(bool)
        self._layers = set(np.unique(np.asarray(table["layer"])).tolist())
        # Only the D rows that drop a slot are kept; the layers first: a file may drop nothing in one.
        table = table.filter(pa.array(dropped))
        self._layer_D = np.asarray(table["layer"])
        self._slot_D = np.asarray(table["slot"])
        self._row_D = trace.rows_of(_prompts(table["prompt"], trace, path), np.asarray(table["position"]))
        if (self._row_D < 0).any():
            at = int((self._row_D < 0).argmax())
            raise SteeringError(
                f"{path}: {trace.told} has no token at position {table['position'][at]} of prompt "
                f"{table['prompt'][at].as_py()!r}"
            )
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def problem(self, spec: RouterSpec) -> str | None:
        return (
            None
            if spec.layer in self._layers
            else f"{self.told} has no row of it; name the layers that it has"
        )

    def keep(self, spec: RouterSpec, tokens: Sequence[int], first: int, width: int) -> np.ndarray:
        start = self.trace.start_of(tokens, spec.layer)
        return self._of_layer(spec.layer, width)[start + first : start + len(tokens)]

    def _of_layer(self, layer: int, width: int) -> np.ndarray:
        """(tokens of the trace, width) bool."""
        if (layer, width) not in self._known:
            keep_NK = np.ones((self.trace.num_tokens, width), bool)
            here = (self._layer_D == layer) & (self._slot_D < width)
            keep_NK[self._row_D[here], self._slot_D[here]] = False
            self._known[layer, width] = keep_NK
        return self._known[layer, width]


def _read(path: str) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SteeringError(f"mask: {path} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise SteeringError(f"mask: {path} lacks the column {missing[0]}; it needs {', '.join(COLUMNS)}")
    table = table.select(list(COLUMNS))
    for name in COLUMNS[1:]:
        column = table[name]
        whole = pa.types.is_integer(column.type) or (name == "keep" and pa.types.is_boolean(column.type))
        if not whole or column.null_count:
            raise SteeringError(f"mask: {path} has no whole number in every row of {name}")
        values = np.asarray(column).astype(np.int64)
        if len(values) and (values.min() < 0 or (name == "keep" and values.max() > 1)):
            raise SteeringError(
                f"mask: {path} has {name} {values.min()} to {values.max()}, which is out of range"
            )
    return table


def _prompts(column: Any, trace: TraceRecorded, path: str) -> np.ndarray:
    """Rows of the trace's prompts, from their ids or their numbers from 0."""
    if pa.types.is_integer(column.type):
        rows = np.asarray(column).astype(np.int64)
        unknown = (rows < 0) | (rows >= len(trace.prompt_ids))
    else:
        known = {prompt_id: row for row, prompt_id in enumerate(trace.prompt_ids)}
        rows = np.array([known.get(value, -1) for value in column.to_pylist()], np.int64)
        unknown = rows < 0
    if unknown.any():
        raise SteeringError(
            f"mask: {path} names prompt {column[int(unknown.argmax())].as_py()!r}, which {trace.told} lacks"
        )
    return rows


def slot_mask(mask: Any, trace: Any) -> SlotMask:
    """The mask that a rule's options name.

    Raises:
        SteeringError: no such file or trace, or rows that do not fit it.
    """
    if isinstance(mask, SlotMask):
        return mask
    if trace is None:
        raise SteeringError("a mask from a file needs `trace`: the trace whose prompts it names")
    source = recorded(trace)
    if not isinstance(source, TraceRecorded):
        raise SteeringError(f"a mask from a file needs the address of a trace, not {source.told}")
    try:
        changed = Path(mask).stat().st_mtime_ns
    except OSError as error:
        raise SteeringError(f"mask: {mask} cannot be read: {error.strerror or error}") from None
    return _of_file(mask, changed, source)


@lru_cache(maxsize=2)
def _of_file(path: str, changed: int, trace: TraceRecorded) -> FileMask:
    """Kept, as every router of every pass asks for it."""
    return FileMask(path, trace)
