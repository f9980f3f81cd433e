"""Which experts work together: within one layer, and from one layer to the next."""

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import as_ids, check_range, check_size, row_chunks

_WIDEST_INDICATOR = 192
"""Up to this many experts a matrix product of token x expert indicators beats counting pair by pair
(benchmarks/kernels_counting.py)."""


def co_activation(ids: ArrayLike, num_experts: int) -> np.ndarray:
    """Tokens that use both of two experts.

    Args:
        ids: chosen experts, (T, k); -1 is an empty slot.
        num_experts: E.
    Returns:
        (E, E) int64, symmetric; the diagonal counts the tokens that use an expert. All pairs of a token's
        experts count, once a token. (OLMoE's released code counts only neighbours in rank: we do not.)
    Raises:
        ValueError: an id out of range, float ids, a wrong shape.
    """
    ids_TK = as_ids(ids)
    num_experts = check_size(num_experts, "num_experts")
    counts_EE = np.zeros((num_experts, num_experts), np.int64)
    for rows in row_chunks(*ids_TK.shape):
        chunk = ids_TK[rows]
        check_range(chunk, num_experts, "ids", rows.start)
        chunk = without_repeats(chunk)
        _add_pairs(counts_EE, chunk, chunk)
    return counts_EE


def transitions(ids_a: ArrayLike, ids_b: ArrayLike, num_a: int, num_b: int) -> np.ndarray:
    """How often a token that uses expert a in one layer uses expert b in another.

    Args:
        ids_a, ids_b: chosen experts of the same tokens in the two layers, (T, ka) and (T, kb); -1 is empty.
        num_a, num_b: experts of each layer.
    Returns:
        (num_a, num_b) int64: all ka x kb pairs of every token, so its sum is T ka kb where no slot is empty.
    Raises:
        ValueError: an id out of range, float ids, different numbers of tokens.
    """
    a_TK, b_TK = as_ids(ids_a, "ids_a"), as_ids(ids_b, "ids_b")
    num_a, num_b = check_size(num_a, "num_a"), check_size(num_b, "num_b")
    if len(a_TK) != len(b_TK):
        raise ValueError(f"ids_a has {len(a_TK)} tokens, ids_b {len(b_TK)}: they must be the same tokens")
    counts_AB = np.zeros((num_a, num_b), np.int64)
    for rows in row_chunks(len(a_TK), max(a_TK.shape[1], b_TK.shape[1])):
        a, b = a_TK[rows], b_TK[rows]
        check_range(a, num_a, "ids_a", rows.start)
        check_range(b, num_b, "ids_b", rows.start)
        _add_pairs(counts_AB, a, b)
    return counts_AB


def without_repeats(ids_TK: np.ndarray) -> np.ndarray:
    """The same expert sets with an expert that a token names twice kept once; the order within a token may
    change."""
    ordered = np.sort(ids_TK, axis=1)
    again = ordered[:, 1:] == ordered[:, :-1]
    if not again[ordered[:, 1:] >= 0].any():
        return ids_TK
    ordered = ordered.astype(np.int64)
    ordered[:, 1:][again] = -1
    return ordered


def _add_pairs(counts_AB: np.ndarray, a_TK: np.ndarray, b_TK: np.ndarray) -> None:
    if max(counts_AB.shape) <= _WIDEST_INDICATOR:
        _add_pairs_by_product(counts_AB, a_TK, b_TK)
    else:
        _add_pairs_by_key(counts_AB, a_TK, b_TK)


def _add_pairs_by_key(counts_AB: np.ndarray, a_TK: np.ndarray, b_TK: np.ndarray) -> None:
    """The plain version: one combined key for each pair, counted."""
    keys = a_TK.astype(np.int64)[:, :, None] * counts_AB.shape[1] + b_TK[:, None, :].astype(np.int64)
    filled = (a_TK >= 0)[:, :, None] & (b_TK >= 0)[:, None, :]
    np.add.at(counts_AB.reshape(-1), keys[filled], 1)


def _add_pairs_by_product(counts_AB: np.ndarray, a_TK: np.ndarray, b_TK: np.ndarray) -> None:
    """Slots of each expert as a token x expert matrix; float32 holds the sums of one piece exactly."""
    slots_TA = _slots_of_experts(a_TK, counts_AB.shape[0])
    slots_TB = slots_TA if a_TK is b_TK else _slots_of_experts(b_TK, counts_AB.shape[1])
    counts_AB += (slots_TA.T @ slots_TB).astype(np.int64)


def _slots_of_experts(ids_TK: np.ndarray, num_experts: int) -> np.ndarray:
    """(T, E) float32: in how many of a token's slots each expert stands."""
    rows = np.arange(len(ids_TK), dtype=np.int64)[:, None] * (num_experts + 1)
    keys = np.add(ids_TK, rows + 1, dtype=np.int64, casting="unsafe").ravel()
    slots = np.bincount(keys, minlength=len(ids_TK) * (num_experts + 1))
    return slots.reshape(len(ids_TK), -1)[:, 1:].astype(np.float32)
