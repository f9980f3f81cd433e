"""Which experts a token will choose, told before it does. Fitted on other prompts than those they are scored on."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_labels, check_range, check_size, row_chunks
from .cache import _three, is_among


def same_as_previous_token(ids: ArrayLike, starts: ArrayLike | None = None) -> np.ndarray:
    """Each token is expected to do what the one before it did.

    Args:
        ids: (T, L, k) of consecutive tokens.
        starts: (S,) rows at which sequences begin, 0 where None: nothing is expected of a first token (-1).
    Returns:
        (T, L, k).
    """
    ids_TLK = _three(ids, "ids")
    out = np.full_like(ids_TLK, -1)
    out[1:] = ids_TLK[:-1]
    first = np.asarray([0] if starts is None else starts)
    out[as_labels(first, "starts", len(first))] = -1
    return out


def layer_frequency(fit: ArrayLike, tokens: int, num_experts: int, k: int) -> np.ndarray:
    """Every token is expected to choose the k experts of the layer that were chosen most.

    Args:
        fit: (F, L, k) choices that were seen.
        tokens: T, for how many to predict.
    Returns:
        (T, L, k), most frequent first; of equals the lower number.
    """
    fit_FLK = _three(fit, "fit")
    best = np.stack([_top(_counts(layer, num_experts), k) for layer in np.moveaxis(fit_FLK, 1, 0)])
    return np.tile(best, (tokens, 1, 1))


def transition(fit: ArrayLike, ids: ArrayLike, num_experts: int, k: int | None = None) -> np.ndarray:
    """A layer is expected to choose what followed the experts that the token chose one layer before.

    Args:
        fit: (F, L, k) choices that were seen.
        ids: (T, L, k) choices to predict, each layer from the true choice of the layer before it.
        k: experts to name, as many as tokens choose where None.
    Returns:
        (T, L, k). The first layer, which has none before it, is predicted by `layer_frequency`.
    """
    fit_FLK, ids_TLK = _three(fit, "fit"), _three(ids, "ids")
    if fit_FLK.shape[1] != ids_TLK.shape[1]:
        raise ValueError(f"fit has {fit_FLK.shape[1]} layers, ids {ids_TLK.shape[1]}")
    named = ids_TLK.shape[2] if k is None else k
    out = layer_frequency(fit_FLK, len(ids_TLK), num_experts, named)
    for layer in range(1, ids_TLK.shape[1]):
        follows = _one_hot(fit_FLK[:, layer - 1], num_experts).T @ _one_hot(fit_FLK[:, layer], num_experts)
        # What is seen in all tokens breaks ties, and stands in for experts that were never seen; then the lower number.
        place_E = np.empty(num_experts, np.int64)
        place_E[_top(_counts(fit_FLK[:, layer], num_experts), num_experts)] = np.arange(num_experts)
        seen_TE = (_one_hot(ids_TLK[:, layer - 1], num_experts) @ follows).astype(np.int64)
        out[:, layer] = _smallest(place_E - num_experts * seen_TE, named)
    return out


def recall(predicted: ArrayLike, ids: ArrayLike) -> np.ndarray:
    """(T, L) |predicted ∩ true| / |true|; NaN where nothing was chosen.

    By chance k of E named at random reach k / E.
    """
    predicted_TLM, ids_TLK = _three(predicted, "predicted"), _three(ids, "ids")
    used = ids_TLK >= 0
    found_TL = np.zeros(used.shape[:2])
    for rows in row_chunks(len(ids_TLK), ids_TLK[0].size if len(ids_TLK) else 1):
        found_TL[rows] = is_among(ids_TLK[rows], predicted_TLM[rows]).sum(-1)
    chosen = used.sum(-1)
    return np.divide(found_TL, chosen, out=np.full(chosen.shape, np.nan), where=chosen > 0)


def _counts(ids_FK: np.ndarray, num_experts: int) -> np.ndarray:
    check_range(ids_FK, check_size(num_experts, "num_experts"), "ids")
    return np.bincount(ids_FK[ids_FK >= 0], minlength=num_experts)


def _one_hot(ids_FK: np.ndarray, num_experts: int) -> np.ndarray:
    check_range(ids_FK, num_experts, "ids")
    out = np.zeros((len(ids_FK), num_experts), np.float32)
    token, slot = np.nonzero(ids_FK >= 0)
    out[token, ids_FK[token, slot]] = 1
    return out


def _top(score: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-score, axis=-1, kind="stable")[..., : check_size(k, "k")]


def _smallest(key_TE: np.ndarray, k: int) -> np.ndarray:
    """(T, k) columns of the smallest keys, in rising order; no two keys of a row are equal."""
    kept = min(check_size(k, "k"), key_TE.shape[1])
    if 2 * kept >= key_TE.shape[1]:
        return np.argsort(key_TE, axis=-1)[:, :kept]
    best_TK = np.argpartition(key_TE, kept - 1, axis=-1)[:, :kept]
    order_TK = np.argsort(np.take_along_axis(key_TE, best_TK, axis=-1), axis=-1)
    return np.take_along_axis(best_TK, order_TK, axis=-1)
