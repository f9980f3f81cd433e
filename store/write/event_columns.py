"""From a router's events to the rows of the events file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..files.layout import EVENT_SCALARS, PartFile, prompt_chunks
from ..schema import RouterEvents
from .event_check import FlatEvents


class EventColumns:
    """Encodes events as the columns of a schema; what was not captured is null."""

    def __init__(self, schema: pa.Schema):
        self._schema = schema

    def add(
        self,
        file: PartFile,
        number: int,
        events: RouterEvents,
        flat: FlatEvents,
        first_prompt: int,
    ) -> None:
        """Append a router's events, in row groups of whole prompts.

        Args:
            number: of the router in the manifest.
            first_prompt: key of the part's first prompt.
        """
        for rows in prompt_chunks(events.prompt):
            columns = self._columns(events, flat, rows, first_prompt)
            arrays = [
                columns[f.name] if f.name in columns else pa.nulls(rows.stop - rows.start, f.type)
                for f in self._schema
            ]
            first, last = (int(events.prompt[i]) + first_prompt for i in (rows.start, rows.stop - 1))
            table = pa.Table.from_arrays(arrays, schema=self._schema)
            file.add(table, router=number, first=first, last=last)

    def _columns(
        self,
        events: RouterEvents,
        flat: FlatEvents,
        rows: slice,
        first_prompt: int,
    ) -> dict[str, pa.Array]:
        experts_S, weights_S, offsets = flat
        size = rows.stop - rows.start
        stream = pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int8)), pa.array([events.stream]))
        chosen = slice(int(offsets[rows.start]), int(offsets[rows.stop]))
        own_offsets = pa.array(offsets[rows.start : rows.stop + 1] - offsets[rows.start], pa.int32())
        columns: dict[str, pa.Array] = {
            "prompt": pa.array(events.prompt[rows] + np.int32(first_prompt), pa.int32()),
            "position": pa.array(events.position[rows], pa.int32()),
            "layer": pa.array(np.full(size, events.layer, np.int32)),
            "stream": stream,
            "experts": self._list("experts", experts_S[chosen], own_offsets),
        }
        if weights_S is not None and "weights" in self._schema.names:
            columns["weights"] = self._list("weights", weights_S[chosen], own_offsets)
        for name, values in events.extras.items():
            if name not in self._schema.names:
                continue
            columns[name] = self._extra(name, values, rows, chosen, own_offsets)
        return columns

    def _extra(
        self, name: str, values: np.ndarray, rows: slice, chosen: slice, offsets: pa.Array
    ) -> pa.Array:
        if name in EVENT_SCALARS:
            return pa.array(np.asarray(values[rows], np.float32))
        if name == "logits":
            logits_NE = np.ascontiguousarray(values[rows], np.float32)
            own = np.arange(len(logits_NE) + 1, dtype=np.int32) * logits_NE.shape[1]
            return self._list(name, logits_NE.reshape(-1), pa.array(own))
        return self._list(name, np.asarray(values.reshape(-1)[chosen], np.float32), offsets)

    def _list(self, name: str, values: np.ndarray, offsets: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values), type=self._schema.field(name).type)
