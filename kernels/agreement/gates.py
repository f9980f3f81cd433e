"""How far the gate weights of two routings lie apart, and how close a choice was."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_slot_weights, check_size, first_index, row_chunks, to_numpy
from ..compiled import compiled_if_worth_it
from .sets import MOST_EXPERTS, PLAIN_COMPARISON, as_pair, experts_in, first_uses, pieces, slots_of


def gate_distance(
    ids_a: ArrayLike, weights_a: ArrayLike, ids_b: ArrayLike, weights_b: ArrayLike
) -> np.ndarray:
    """Total variation of the gate weights of two routings, each side divided by its own sum.

    Args:
        ids_a, ids_b: (T, K) and (T, K'); -1 is an empty slot.
        weights_a, weights_b: gate weights beside them, not negative; those of empty slots are ignored.
    Returns:
        (T,) ½ Σ_e |g_a(e) - g_b(e)| in [0, 1]: 0 where both mix the same experts alike, 1 where they share none. A
        side without any weight is at distance 1 from every other, and 0 from another such side.
    Raises:
        ValueError: shapes that do not fit, ids below -1, a weight that is negative, NaN or infinite.
    """
    a_TK, b_TJ = as_pair(ids_a, ids_b)
    mass_a_TK, mass_b_TJ = _filled(weights_a, a_TK, "weights_a"), _filled(weights_b, b_TJ, "weights_b")
    distance_T = np.zeros(len(a_TK))
    experts = experts_in(a_TK, b_TJ)
    work = 8 * PLAIN_COMPARISON * a_TK.size * b_TJ.shape[1]
    if experts <= MOST_EXPERTS and (fast := compiled_if_worth_it(_distance_loop, work)):
        fast(distance_T, a_TK, mass_a_TK, b_TJ, mass_b_TJ, np.zeros(experts), np.zeros(experts))
        return distance_T
    for rows in pieces(a_TK, b_TJ):
        a_KT, b_JT = slots_of(a_TK[rows], b_TJ[rows])
        g_a_KT, g_b_JT = _shares(mass_a_TK[rows], a_TK[rows]), _shares(mass_b_TJ[rows], b_TJ[rows])
        distance_T[rows] = _distance(a_KT, g_a_KT, b_JT, g_b_JT)
    return distance_T


def selection_margin(scores: ArrayLike, k: int) -> np.ndarray:
    """How close a choice was: the k-th largest score minus the next one.

    Args:
        scores: what the model selects on, (T, E): logits or probabilities; with a correction bias, after it.
        k: experts that a token uses, 1 .. E - 1.
    Returns:
        (T,) float64, from 0; NaN where a token's scores hold a NaN.
    Raises:
        ValueError: k outside 1 .. E - 1 (nothing is left out then), or scores of another shape.
    """
    scores_TE = to_numpy(scores)
    if scores_TE.ndim != 2 or scores_TE.dtype.kind not in "iuf":
        raise ValueError(f"scores must be numbers of shape (T, E), got {scores_TE.dtype} {scores_TE.shape}")
    experts = scores_TE.shape[1]
    k = check_size(k, "k")
    if k >= experts:
        raise ValueError(f"k is {k} of {experts} experts: no expert is left out, so there is no margin")
    margin_T = np.empty(len(scores_TE))
    for rows in row_chunks(len(scores_TE), experts):
        piece_TE = scores_TE[rows].astype(np.float64)
        piece_TE.partition((experts - k - 1, experts - k), axis=1)
        with np.errstate(invalid="ignore"):
            margin_T[rows] = piece_TE[:, experts - k] - piece_TE[:, experts - k - 1]
        margin_T[rows][np.isnan(piece_TE).any(1)] = np.nan
    return margin_T


def _filled(weights: ArrayLike, ids_TK: np.ndarray, name: str) -> np.ndarray:
    weights_TK = as_slot_weights(weights, ids_TK)
    wrong_TK = (ids_TK >= 0) & ~((weights_TK >= 0) & (weights_TK < np.inf))
    if wrong_TK.any():
        value = weights_TK[wrong_TK][0]
        raise ValueError(f"{name}{first_index(wrong_TK)} is {value}: it must be finite and not negative")
    return weights_TK.astype(np.float32) if weights_TK.dtype == np.float16 else weights_TK


def _shares(weights_TK: np.ndarray, ids_TK: np.ndarray) -> np.ndarray:
    """(K, T) weights that sum to 1, 0 in empty slots; all 0 where a token has no weight."""
    mass_KT = np.where(ids_TK >= 0, weights_TK, 0).T.astype(np.float64, order="C")
    total_T = mass_KT.sum(0)
    return np.divide(mass_KT, total_T, out=np.zeros_like(mass_KT), where=total_T > 0)


def _distance(a_KT: np.ndarray, g_a_KT: np.ndarray, b_JT: np.ndarray, g_b_JT: np.ndarray) -> np.ndarray:
    """(T,): every expert of A is looked up in B once; what of B's weight was not met is added."""
    first_KT, met_T = first_uses(a_KT), np.zeros(a_KT.shape[1])
    apart_T = np.zeros(a_KT.shape[1])
    repeats = not np.array_equal(first_KT, a_KT >= 0)
    for slot, ids_T in enumerate(a_KT):
        own_T = g_a_KT[slot]
        if repeats:
            own_T = sum((g * (ids_T == other) for g, other in zip(g_a_KT, a_KT, strict=True)), np.zeros(1))
        other_T = np.zeros(len(ids_T))
        for g_T, other in zip(g_b_JT, b_JT, strict=True):
            np.add(other_T, g_T, out=other_T, where=ids_T == other)
        counted_T = first_KT[slot]
        apart_T += np.where(counted_T, np.abs(own_T - other_T), 0)
        met_T += np.where(counted_T, other_T, 0)
    # Two sides without weight are alike; one alone is as far as can be.
    empty_a_T, empty_b_T = g_a_KT.sum(0) == 0, g_b_JT.sum(0) == 0
    distance_T = (apart_T + _unmet(g_b_JT.sum(0), met_T)) / 2
    return np.where(empty_a_T | empty_b_T, empty_a_T != empty_b_T, np.clip(distance_T, 0, 1))


def _unmet(total_T: np.ndarray, met_T: np.ndarray) -> np.ndarray:
    """What is left of B's weight, without the rounding of two sums in another order."""
    left_T = total_T - met_T
    return np.where(left_T > 1e-12, left_T, 0)


def _distance_loop(
    distance_T: np.ndarray,
    a_TK: np.ndarray,
    g_a_TK: np.ndarray,
    b_TJ: np.ndarray,
    g_b_TJ: np.ndarray,
    own_E: np.ndarray,
    other_E: np.ndarray,
) -> None:
    """`own` and `other` hold g_a and g_b of the experts of one token, and zeros before and after it."""
    for t in range(a_TK.shape[0]):
        total_a = total_b = 0.0
        for i in range(a_TK.shape[1]):
            if a_TK[t, i] >= 0:
                total_a += g_a_TK[t, i]
        for j in range(b_TJ.shape[1]):
            if b_TJ[t, j] >= 0:
                total_b += g_b_TJ[t, j]
        if total_a == 0 or total_b == 0:
            distance_T[t] = 0.0 if total_a == total_b else 1.0
            continue
        for i in range(a_TK.shape[1]):
            if a_TK[t, i] >= 0:
                own_E[a_TK[t, i]] += g_a_TK[t, i] / total_a
        for j in range(b_TJ.shape[1]):
            if b_TJ[t, j] >= 0:
                other_E[b_TJ[t, j]] += g_b_TJ[t, j] / total_b
        total = 0.0
        for i in range(a_TK.shape[1]):
            if a_TK[t, i] >= 0:
                # Zeroed at once: an expert that B chose too must not be counted again below.
                total += abs(own_E[a_TK[t, i]] - other_E[a_TK[t, i]])
                own_E[a_TK[t, i]] = other_E[a_TK[t, i]] = 0.0
        for j in range(b_TJ.shape[1]):
            if b_TJ[t, j] >= 0:
                total += abs(own_E[b_TJ[t, j]] - other_E[b_TJ[t, j]])
                own_E[b_TJ[t, j]] = other_E[b_TJ[t, j]] = 0.0
        distance_T[t] = min(total / 2, 1.0)
