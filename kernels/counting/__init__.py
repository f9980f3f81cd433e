"""Counting routing events: which experts are chosen, how evenly, together, and one layer after another.

Shapes: T tokens, k slots a token, E experts, G groups. `ids` (T, k) are integers of any width, in descending
gate weight, -1 an empty slot. Everything streams over the tokens in pieces that stay in cache; nothing as
large as the events is ever allocated. Definitions and traps: docs/methods/counting.md.
"""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import (
    CHUNK_SLOTS,
    LARGEST_CHUNK,
    as_ids,
    as_labels,
    as_slot_weights,
    check_range,
    check_size,
    row_chunks,
)
from ..compiled import compiled_if_worth_it
from .balance import load_imbalance, mutual_information
from .locality import jaccard, repeated_assignment, repeated_assignment_chance
from .pairs import co_activation, transitions

_PLAIN_SLOT = 1.5e-9
"""Seconds for one slot in the plain version."""

__all__ = [
    "co_activation",
    "count_experts",
    "jaccard",
    "load_imbalance",
    "mutual_information",
    "repeated_assignment",
    "repeated_assignment_chance",
    "transitions",
]


def count_experts(
    ids: ArrayLike,
    num_experts: int,
    groups: ArrayLike | None = None,
    num_groups: int | None = None,
    weights: ArrayLike | None = None,
) -> np.ndarray:
    """How often, or with how much gate weight, each expert is chosen.

    Args:
        ids: chosen experts, (T, k); -1 is an empty slot.
        num_experts: E.
        groups: the group of each token, (T,); -1 leaves a token out. Fastest where they ascend.
        num_groups: G; without it, the largest group + 1.
        weights: gate weights, (T, k); those of empty slots are ignored.
    Returns:
        (E,), or (G, E) with groups: int64 counts, or float64 sums of weights.
    Raises:
        ValueError: an id or group out of range, shapes that differ, float ids, a NaN or
            infinite weight in a filled slot.
    """
    ids_TK = as_ids(ids)
    num_experts = check_size(num_experts, "num_experts")
    if groups is None and weights is None:
        return _count(ids_TK, num_experts)
    weights_TK = None if weights is None else as_slot_weights(weights, ids_TK)
    groups_T = np.broadcast_to(np.int64(0), len(ids_TK)) if groups is None else groups
    groups_T = as_labels(groups_T, "groups", len(ids_TK))
    if num_groups is None:
        num_groups = 1 if groups is None else int(groups_T.max(initial=-1)) + 1
    counts_GE = np.zeros((num_groups, num_experts), np.int64 if weights_TK is None else np.float64)
    for rows in row_chunks(len(ids_TK), ids_TK.shape[1], _slots_at_once(groups_T, counts_GE.size)):
        _add_rows(counts_GE, rows, ids_TK, groups_T, weights_TK)
    return counts_GE[0] if groups is None else counts_GE


def _count(ids_TK: np.ndarray, num_experts: int) -> np.ndarray:
    some_empty = check_range(ids_TK, num_experts, "ids")
    counts_E = np.zeros(num_experts, np.int64)
    if fast := compiled_if_worth_it(_count_loop, _PLAIN_SLOT * ids_TK.size):
        fast(counts_E, ids_TK)
        return counts_E
    for rows in row_chunks(*ids_TK.shape):
        # In pieces: bincount would make an int64 copy of all ids at once.
        ids = ids_TK[rows].astype(np.int64, copy=False)
        counts_E += np.bincount(ids[ids >= 0] if some_empty else ids.ravel(), minlength=num_experts)
    return counts_E


def _slots_at_once(groups_T: np.ndarray, cells: int) -> int:
    """Groups in random order touch the whole table in every piece: no piece should be smaller than it."""
    if np.all(groups_T[1:] >= groups_T[:-1]):
        return CHUNK_SLOTS
    return max(CHUNK_SLOTS, min(cells, LARGEST_CHUNK))


def _add_rows(
    counts_GE: np.ndarray,
    rows: slice,
    ids_TK: np.ndarray,
    groups_T: np.ndarray,
    weights_TK: np.ndarray | None,
) -> None:
    num_groups, num_experts = counts_GE.shape
    ids, labels = ids_TK[rows], groups_T[rows].astype(np.int64)
    some_empty = check_range(ids, num_experts, "ids", rows.start)
    some_left_out = check_range(labels, num_groups, "groups", rows.start)
    first, last = max(int(labels.min()), 0), int(labels.max())
    # (group, expert) as one number, from the piece's first group on: one bincount fills that stretch of the table.
    keys = np.add(ids, ((labels - first) * num_experts)[:, None], dtype=np.int64, casting="unsafe")
    weights = None if weights_TK is None else weights_TK[rows]
    if some_empty or some_left_out:
        filled = (ids >= 0) & (labels >= 0)[:, None]
        keys, weights = keys[filled], None if weights is None else weights[filled]
    if last < first:
        return
    table = counts_GE[first : last + 1]
    flat = None if weights is None else weights.ravel()
    table += np.bincount(keys.ravel(), flat, minlength=table.size).reshape(table.shape)
    # A weight that is no number spoils its cell: the sums are looked at, not every weight.
    if weights_TK is not None and not np.isfinite(table).all():
        _refuse_weight(weights_TK, ids_TK, groups_T, rows)


def _refuse_weight(weights_TK: np.ndarray, ids_TK: np.ndarray, groups_T: np.ndarray, rows: slice) -> None:
    counted = (ids_TK[rows] >= 0) & (groups_T[rows] >= 0)[:, None]
    for row, slot in np.argwhere(~np.isfinite(weights_TK[rows]) & counted):
        weight = weights_TK[rows][row, slot]
        raise ValueError(f"weights[{rows.start + row}, {slot}] is {'NaN' if np.isnan(weight) else weight}")


def _count_loop(counts_E: np.ndarray, ids_TK: np.ndarray) -> None:
    for t in range(ids_TK.shape[0]):
        for i in range(ids_TK.shape[1]):
            expert = ids_TK[t, i]
            if expert >= 0:
                counts_E[expert] += 1
