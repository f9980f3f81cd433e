"""Events of one router in one part, as arrays that kernels take without a copy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ..errors import UnknownColumn


@dataclass(frozen=True)
class EventBatch:
    """Events of one router in one part; N token rows sorted by (prompt, position)."""

    prompt_N: np.ndarray
    """(N,) int32 keys, rising; `prompt_index` gives the rows of `Trace.prompts()`."""
    position_N: np.ndarray
    """(N,) int32."""
    prompt_index: np.ndarray
    """(N,) int64: row of the prompt in `Trace.prompts()`."""
    experts: np.ndarray
    """(N, K) unsigned, in descending gate weight: a view of the Arrow buffer. Where k varies, flat (S,)."""
    offsets: np.ndarray | None
    """(N + 1,) where k varies: token i chose experts[offsets[i]:offsets[i + 1]]; else None."""
    columns: dict[str, np.ndarray]
    """The other columns that were asked for: `weights`, `probability`, `output_norm` in the shape of
    `experts`, `logits` (N, E), `entropy` and `similarity` (N,)."""

    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    """(N,) columns of the tokens that were asked for; `token_id` is -1 where there is none."""

    @property
    def weights(self) -> np.ndarray:
        return self.columns["weights"]

    def padded(self) -> np.ndarray:
        """(N, K) int32 experts, -1 in empty slots where k varies; `experts` itself where it does not."""
        if self.offsets is None:
            return self.experts
        lengths = np.diff(self.offsets)
        out = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int32)
        out[np.arange(out.shape[1]) < lengths[:, None]] = self.experts
        return out

    def kept(self, rows: np.ndarray) -> EventBatch:
        """Some of the events, by rising row numbers, where k does not vary."""
        return EventBatch(
            prompt_N=self.prompt_N[rows],
            position_N=self.position_N[rows],
            prompt_index=self.prompt_index[rows],
            experts=self.experts.take(rows, axis=0),
            offsets=None,
            columns={name: values.take(rows, axis=0) for name, values in self.columns.items()},
            tokens={name: values[rows] for name, values in self.tokens.items()},
        )


def batch_of(
    events: pa.Table,
    prompt_N: np.ndarray,
    position_N: np.ndarray,
    prompt_index: np.ndarray,
    num_experts: int,
) -> EventBatch:
    """A batch of the columns of `events`, `experts` among them, and the keys that go with them.

    Raises:
        UnknownColumn: a column is null for some of the events.
    """
    rows = len(prompt_N)
    offsets, experts = _list_arrays(events["experts"])
    k = _same_k(offsets)
    shape = (rows, k) if k else None
    columns = {}
    for name in events.column_names:
        column = events[name]
        if name == "experts":
            continue
        if not pa.types.is_list(column.type):
            columns[name] = np.asarray(column)
            continue
        if column.null_count:
            raise UnknownColumn(f"some events have no {name}: the router or the imported file has none")
        values = _list_arrays(column)[1]
        columns[name] = values.reshape(rows, num_experts) if name == "logits" else values
        if name != "logits" and shape is not None:
            columns[name] = values.reshape(shape)
    return EventBatch(
        prompt_N=prompt_N,
        position_N=position_N,
        prompt_index=prompt_index,
        experts=experts if shape is None else experts.reshape(shape),
        offsets=offsets if shape is None else None,
        columns=columns,
    )


def has_same_k(events: pa.Table) -> bool:
    """Whether all events have as many experts, and any."""
    return bool(_same_k(_list_arrays(events["experts"])[0]))


def _same_k(offsets: np.ndarray) -> int:
    """The length of all lists, or 0 where they differ."""
    lengths = np.diff(offsets)
    k = int(lengths[0]) if len(lengths) else 1
    return k if (lengths == k).all() else 0


def _list_arrays(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from 0 and values of a list column."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    offsets = np.asarray(array.offsets)
    return offsets - offsets[0] if len(offsets) and offsets[0] else offsets, np.asarray(array.flatten())


def uses_of(experts: np.ndarray, offsets: np.ndarray | None, expert: int) -> tuple[np.ndarray, np.ndarray]:
    """Token rows that chose an expert, and the flat slots in which they did."""
    slots = np.flatnonzero(experts.reshape(-1) == expert)
    if offsets is None:
        return slots // experts.shape[1], slots
    return np.searchsorted(offsets, slots, side="right") - 1, slots
