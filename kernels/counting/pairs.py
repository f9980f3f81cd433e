"""Which experts work together: within one layer, and from one layer to the next."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import CHUNK_SLOTS, LARGEST_CHUNK, as_ids, check_range, check_size, row_chunks
from ..compiled import compiled_if_worth_it

_PLAIN_PAIR = 6e-9
"""Seconds for one pair of slots in the plain version."""

_ONE_HOT_EXPERTS = 128
"""Up to so many experts the plain pairs within a token are a product of zeros and ones: faster than counting."""

_ONE_HOT_TOKENS = 2048


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
    check_range(ids_TK, num_experts, "ids")
    counts_EE = np.zeros((num_experts, num_experts), np.int64)
    if fast := compiled_if_worth_it(_pairs_within_loop, _PLAIN_PAIR * ids_TK.size * ids_TK.shape[1]):
        fast(counts_EE, ids_TK, np.full(num_experts, -1), np.empty(ids_TK.shape[1], np.int64))
        return counts_EE + np.tril(counts_EE, -1).T + np.triu(counts_EE, 1).T
    if num_experts <= _ONE_HOT_EXPERTS:
        _add_one_hot(counts_EE, ids_TK)
        return counts_EE
    for rows in _pieces(counts_EE, ids_TK, ids_TK):
        chunk = without_repeats(ids_TK[rows])
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
    check_range(a_TK, num_a, "ids_a")
    check_range(b_TK, num_b, "ids_b")
    counts_AB = np.zeros((num_a, num_b), np.int64)
    if fast := compiled_if_worth_it(_pairs_between_loop, _PLAIN_PAIR * a_TK.size * b_TK.shape[1]):
        fast(counts_AB, a_TK, b_TK)
        return counts_AB
    for rows in _pieces(counts_AB, a_TK, b_TK):
        _add_pairs(counts_AB, a_TK[rows], b_TK[rows])
    return counts_AB


def without_repeats(ids_TK: np.ndarray) -> np.ndarray:
    """The same expert sets, an expert that a token names twice kept once; the order in a token may change."""
    ordered = np.sort(ids_TK, axis=1)
    again = ordered[:, 1:] == ordered[:, :-1]
    if not again[ordered[:, 1:] >= 0].any():
        return ids_TK
    ordered = ordered.astype(np.int64)
    ordered[:, 1:][again] = -1
    return ordered


def _pieces(counts_AB: np.ndarray, a_TK: np.ndarray, b_TK: np.ndarray) -> Iterator[slice]:
    """Rows whose pairs are at least as many as the cells they are counted into."""
    pairs = max(CHUNK_SLOTS, min(counts_AB.size, LARGEST_CHUNK))
    return row_chunks(len(a_TK), a_TK.shape[1] * b_TK.shape[1], pairs)


def _add_pairs(counts_AB: np.ndarray, a_TK: np.ndarray, b_TK: np.ndarray) -> None:
    """The plain version: one combined key for each pair, counted."""
    # (T, K, J): every slot of a against every slot of b of the same token, as the flat index of its cell in (A, B).
    keys = a_TK.astype(np.int64)[:, :, None] * counts_AB.shape[1] + b_TK[:, None, :].astype(np.int64)
    if (a_TK < 0).any() or (b_TK < 0).any():
        keys = keys[(a_TK >= 0)[:, :, None] & (b_TK >= 0)[:, None, :]]
    counts_AB += np.bincount(keys.ravel(), minlength=counts_AB.size).reshape(counts_AB.shape)


def _add_one_hot(counts_EE: np.ndarray, ids_TK: np.ndarray) -> None:
    """The plain version for few experts: with S the (T, E) matrix of who is chosen, the pairs are S'S. Exact: the
    sums of a piece are far below 2^24."""
    experts = len(counts_EE)
    chosen_TE = np.zeros((_ONE_HOT_TOKENS, experts + 1), np.float32)  # the last column takes the empty slots
    for start in range(0, len(ids_TK), _ONE_HOT_TOKENS):
        ids = ids_TK[start : start + _ONE_HOT_TOKENS]
        slots = np.where(ids < 0, experts, ids) if ids.dtype.kind == "i" else ids
        chosen = chosen_TE[: len(ids)]
        chosen[:] = 0
        chosen[np.arange(len(ids))[:, None], slots] = 1
        counts_EE += (chosen[:, :-1].T @ chosen[:, :-1]).astype(np.int64)


def _pairs_between_loop(counts_AB: np.ndarray, a_TK: np.ndarray, b_TK: np.ndarray) -> None:
    for t in range(a_TK.shape[0]):
        for i in range(a_TK.shape[1]):
            a = a_TK[t, i]
            if a >= 0:
                for j in range(b_TK.shape[1]):
                    b = b_TK[t, j]
                    if b >= 0:
                        counts_AB[a, b] += 1


def _pairs_within_loop(
    counts_EE: np.ndarray, ids_TK: np.ndarray, seen_by_E: np.ndarray, own_K: np.ndarray
) -> None:
    """Each pair once, above or below the diagonal.

    `seen_by_E`: the last token that used an expert; `own_K`: room for the experts of one token.
    """
    for t in range(ids_TK.shape[0]):
        own = 0
        for i in range(ids_TK.shape[1]):
            expert = ids_TK[t, i]
            if expert >= 0 and seen_by_E[expert] != t:
                seen_by_E[expert] = t  # so nothing has to be cleared between tokens
                own_K[own] = expert
                own += 1
                for j in range(own):
                    counts_EE[expert, own_K[j]] += 1
