"""Rollups: per-prompt sums that make the app fast, computed when a part is written.

One row for each (prompt, router, phase, special, completion) that has tokens. Counts and weight sums come
from the events themselves, as they are stored; sums over full probabilities come from the tracer
(`RouterSums`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..errors import BadPart
from ..files.layout import DENSE_EXPERTS, ROLLUPS_FILE
from ..schema import RouterCounts, RouterEvents, RouterSpec, RouterSums

PHASES = ("prefill", "decode", "unknown")
KNOWN_PHASES = PHASES[:2]
"""Those that can be asked for; tokens whose phase nobody recorded are in neither."""
_UNKNOWN = PHASES.index("unknown")


@dataclass(frozen=True)
class EventRows:
    """Which tokens the events of a router are about, and which rollup row each of them adds to.

    `key_R4` holds the (prompt, phase, special, completion) of each row, `tokens_R` the events of each, `row_N` the
    row of each event. The routers of a trace mostly have the same tokens: one of these serves them all.
    """

    prompt_N: np.ndarray
    position_N: np.ndarray
    key_R4: np.ndarray
    tokens_R: np.ndarray
    row_N: np.ndarray

    def are_those_of(self, events: RouterEvents) -> bool:
        return events.prompt is self.prompt_N and events.position is self.position_N


@dataclass(frozen=True)
class TokenClasses:
    """The (prompt, phase, special, completion) of a part's tokens, numbered.

    `key_T` is prompt << 32 | position, rising; `class_T` the number of the class of each token; `classes_C4`
    the classes themselves, sorted by prompt.
    """

    key_T: np.ndarray
    class_T: np.ndarray
    classes_C4: np.ndarray

    @classmethod
    def of(cls, prompt_T: np.ndarray, position_T: np.ndarray, flags_T3: np.ndarray) -> TokenClasses:
        # The phase takes two bits, the flags one each.
        packed = prompt_T.astype(np.int64) << 4 | flags_T3[:, 0] << 2 | flags_T3[:, 1] << 1 | flags_T3[:, 2]
        found, class_T = np.unique(packed, return_inverse=True)
        classes_C4 = np.stack([found >> 4, found >> 2 & 3, found >> 1 & 1, found & 1], axis=1)
        return cls(token_key(prompt_T, position_T), class_T.astype(np.int64), classes_C4)

    def rows_of(self, events: RouterEvents) -> EventRows:
        """The rollup rows of events. Raises BadPart where they are not sorted, or one has no token."""
        key_N = token_key(events.prompt, events.position)
        where = f"layer {events.layer} ({events.stream})"
        if not (np.diff(key_N) > 0).all():
            raise BadPart(f"{where}: events are not sorted by prompt and position, or one occurs twice")
        class_N = self._classes(key_N, where)
        tokens_C = np.bincount(class_N, minlength=len(self.classes_C4))
        rows = np.flatnonzero(tokens_C)
        row_of_class = np.full(len(tokens_C), -1, np.int64)
        row_of_class[rows] = np.arange(len(rows))
        return EventRows(
            events.prompt, events.position, self.classes_C4[rows], tokens_C[rows], row_of_class[class_N]
        )

    def _classes(self, key_N: np.ndarray, where: str) -> np.ndarray:
        if np.array_equal(key_N, self.key_T):
            return self.class_T
        at = np.searchsorted(self.key_T, key_N)
        at_or_last = np.minimum(at, max(0, len(self.key_T) - 1))
        if len(key_N) and (not len(self.key_T) or not np.array_equal(self.key_T[at_or_last], key_N)):
            raise BadPart(f"{where}: an event has no row in the tokens")
        return self.class_T[at]


def token_key(prompt: np.ndarray, position: np.ndarray) -> np.ndarray:
    return prompt.astype(np.int64) << 32 | position.astype(np.int64)


def router_rollup(
    spec: RouterSpec,
    flat: tuple[np.ndarray, np.ndarray | None, np.ndarray],
    rows: EventRows,
    sums: RouterSums | None,
) -> pa.Table:
    """The rollup rows of one router in one part; `prompt` is still the row number within the part.

    Args:
        flat: chosen experts and weights of all events end to end, and the offsets of the events.
    Raises:
        BadPart: events and `sums` disagree about which rows there are.
    """
    experts_S, weights_S, offsets = flat
    row_S = np.repeat(rows.row_N, np.diff(offsets))
    if spec.num_experts <= DENSE_EXPERTS:
        lists = _dense(experts_S, weights_S, row_S, len(rows.key_R4), spec.num_experts)
    else:
        lists = _sparse(experts_S, weights_S, row_S, len(rows.key_R4))
    lists |= _merged_sums(spec, sums, rows.key_R4)
    return _table(spec, rows.key_R4, rows.tokens_R, lists)


def counts_rollup(spec: RouterSpec, counts: RouterCounts, prompts: int) -> pa.Table:
    """The rollup rows of a router of which only counts are known.

    Raises:
        BadPart: shapes that differ, or prompts that are not there.
    """
    rows = len(counts.prompt)
    where = f"layer {spec.layer} ({spec.stream})"
    if counts.count.shape != (rows, spec.num_experts) or len(counts.tokens) != rows:
        raise BadPart(f"{where}: counts have shape {counts.count.shape}")
    if rows and (counts.prompt[0] < 0 or counts.prompt[-1] >= prompts or (np.diff(counts.prompt) <= 0).any()):
        raise BadPart(f"{where}: counts are not sorted by prompt, or name one that is not there")
    if rows and not 0 <= int(counts.count.min()) <= int(counts.count.max()) < 2**32:
        raise BadPart(f"{where}: a count is not a whole number from 0 to {2**32 - 1}")
    key_R4 = np.zeros((rows, 4), np.int64)
    key_R4[:, 0], key_R4[:, 1] = counts.prompt, _UNKNOWN
    lists = {"count": sum_lists(counts.count.astype(np.uint32))}
    if counts.weight_sum is not None:
        lists["weight_sum"] = sum_lists(counts.weight_sum.astype(np.float32))
    return _table(spec, key_R4, counts.tokens, lists)


def _clean(weights_S: np.ndarray) -> np.ndarray:
    """Weights for sums: a NaN (recorded as such in the events) adds nothing."""
    finite_S = np.isfinite(weights_S)
    return weights_S if finite_S.all() else np.where(finite_S, weights_S, np.float32(0))


def _largest(weights_S: np.ndarray, cell_S: np.ndarray, cells: int) -> np.ndarray:
    """The largest finite weight in each cell, which may be negative; 0 where there is none."""
    largest = np.full(cells, -np.inf, np.float32)
    np.maximum.at(largest, cell_S, np.where(np.isfinite(weights_S), weights_S, np.float32(-np.inf)))
    return np.where(np.isfinite(largest), largest, np.float32(0))


def _dense(
    experts_S: np.ndarray, weights_S: np.ndarray | None, row_S: np.ndarray, rows: int, num_experts: int
) -> dict[str, pa.Array]:
    cell_S, cells = row_S * num_experts + experts_S, rows * num_experts

    def listed(values: np.ndarray) -> pa.Array:
        return sum_lists(values.reshape(rows, num_experts))

    lists = {"count": listed(np.bincount(cell_S, minlength=cells).astype(np.uint32))}
    if weights_S is not None:
        clean = _clean(weights_S)
        lists["weight_sum"] = listed(np.bincount(cell_S, clean, minlength=cells).astype(np.float32))
        lists["weight_max"] = listed(_largest(weights_S, cell_S, cells))
    return lists


def _sparse(
    experts_S: np.ndarray, weights_S: np.ndarray | None, row_S: np.ndarray, rows: int
) -> dict[str, pa.Array]:
    """Only the experts that were chosen: a dense row of 262,144 experts would dwarf the events."""
    # Row and expert in one int64 key: one sort finds the C used cells of all rows, already in the order of the lists.
    # found (C,), at_S (S,) the cell of each selection, offsets (R + 1,) where each row's cells begin.
    found, at_S = np.unique(row_S << 32 | experts_S.astype(np.int64), return_inverse=True)
    offsets = np.searchsorted(found >> 32, np.arange(rows + 1))
    lists = {
        "experts": sum_lists((found & 0xFFFFFFFF).astype(np.int32), offsets),
        "count": sum_lists(np.bincount(at_S, minlength=len(found)).astype(np.uint32), offsets),
    }
    if weights_S is not None:
        clean = _clean(weights_S)
        weight_sum = np.bincount(at_S, weights=clean, minlength=len(found))
        lists["weight_sum"] = sum_lists(weight_sum.astype(np.float32), offsets)
        lists["weight_max"] = sum_lists(_largest(weights_S, at_S, len(found)), offsets)
    return lists


def sum_lists(values: np.ndarray, offsets: np.ndarray | None = None) -> pa.Array:
    if offsets is None:
        offsets = np.arange(len(values) + 1, dtype=np.int64) * (values.shape[1] if values.ndim == 2 else 1)
    kind = pa.list_(pa.field("element", pa.from_numpy_dtype(values.dtype), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values.ravel()), type=kind)


def _merged_sums(spec: RouterSpec, sums: RouterSums | None, key_R4: np.ndarray) -> dict[str, pa.Array]:
    if sums is None:
        return {}
    where = f"layer {spec.layer} ({spec.stream})"
    rows = len(key_R4)
    if sums.probability_sum.shape != (len(sums.prompt), spec.num_experts):
        raise BadPart(f"{where}: probability sums have shape {sums.probability_sum.shape}")
    key = np.stack([sums.prompt, sums.phase, sums.special, sums.completion], axis=1).astype(np.int64)
    # Sums come in any order: by (prompt, phase, special, completion), (R, 4), they must be the rows of the events.
    order = np.lexsort(key.T[::-1])
    if not np.array_equal(key[order], key_R4):
        raise BadPart(f"{where}: the probability sums and the events are not about the same tokens")
    if not np.isfinite(sums.probability_sum).all():
        raise BadPart(f"{where}: a probability sum is NaN or infinite; count such tokens in nan_tokens")
    merged = {
        "entropy_sum": pa.array(sums.entropy_sum[order], pa.float64()),
        "nan_tokens": pa.array(sums.nan_tokens[order], pa.int64()),
    }
    probability = np.ascontiguousarray(sums.probability_sum[order], np.float32)
    merged["probability_sum"] = sum_lists(probability.reshape(rows, spec.num_experts))
    return merged


def _table(spec: RouterSpec, key_R4: np.ndarray, tokens: np.ndarray, lists: dict[str, pa.Array]) -> pa.Table:
    rows = len(key_R4)
    zeros = pa.array(np.zeros(rows, np.int8))
    columns: dict[str, pa.Array] = {
        "prompt": pa.array(key_R4[:, 0], pa.int32()),
        "layer": pa.array(np.full(rows, spec.layer, np.int32)),
        "stream": pa.DictionaryArray.from_arrays(zeros, pa.array([spec.stream])),
        "phase": pa.DictionaryArray.from_arrays(pa.array(key_R4[:, 1], pa.int8()), pa.array(PHASES)),
        "special": pa.array(key_R4[:, 2] != 0),
        "completion": pa.array(key_R4[:, 3] != 0),
        "tokens": pa.array(tokens, pa.int64()),
        "nan_tokens": pa.array(np.zeros(rows, np.int64)),
    }
    columns |= lists
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in ROLLUPS_FILE]
    return pa.Table.from_arrays(arrays, schema=ROLLUPS_FILE)
