"""What the kernels of this family ask of the ids of sequences."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_ids, check_range, check_size, to_numpy
from ..compiled import compiled_if_worth_it

_PLAIN_SORT = 1e-8
"""Seconds a slot in which NumPy sorts the experts of tokens."""


def as_sequence(ids: ArrayLike, num_experts: int) -> np.ndarray:
    """Ids of one or more sequences, (T, k), checked: in range, and no expert twice in one token."""
    ids_TK = as_ids(ids)
    check_range(ids_TK, check_size(num_experts, "num_experts"), "ids")
    if ids_TK.dtype.kind == "u" and ids_TK.dtype.itemsize == 8:
        ids_TK = ids_TK.astype(np.int64)
    token = _token_with_repeat(ids_TK, num_experts)
    if token >= 0:
        raise ValueError(f"ids[{token}] names an expert twice: {ids_TK[token].tolist()}")
    return ids_TK


def as_starts(starts: ArrayLike | None, tokens: int) -> np.ndarray:
    """Bounds of sequences, (S + 1,) int64: not falling, from 0 to the number of tokens."""
    if starts is None:
        return np.array([0, tokens])
    bounds = to_numpy(starts)
    if bounds.ndim != 1 or len(bounds) == 0 or bounds.dtype.kind not in "iu":
        raise ValueError(f"starts must be whole numbers (S + 1,), got {bounds.dtype} {bounds.shape}")
    bounds = bounds.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != tokens or (bounds[1:] < bounds[:-1]).any():
        raise ValueError(f"starts must rise from 0 to the number of tokens, {tokens:,}")
    return bounds


def _token_with_repeat(ids_TK: np.ndarray, num_experts: int) -> int:
    """The first token that names an expert twice; -1 for none."""
    if fast := compiled_if_worth_it(_repeat_loop, _PLAIN_SORT * ids_TK.size):
        found = np.full(1, -1)
        fast(found, np.full(num_experts, -1), ids_TK)
        return int(found[0])
    # (T, K) sorted within each token: equal experts are then neighbours, empty slots (-1) in front.
    ordered = np.sort(ids_TK, axis=1)
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return int(np.argmax(again.any(1))) if again.any() else -1


def _repeat_loop(found: np.ndarray, seen_by_E: np.ndarray, ids_TK: np.ndarray) -> None:
    for t in range(ids_TK.shape[0]):
        for i in range(ids_TK.shape[1]):
            expert = ids_TK[t, i]
            if expert >= 0:
                if seen_by_E[expert] == t:
                    found[0] = t
                    return
                seen_by_E[expert] = t
