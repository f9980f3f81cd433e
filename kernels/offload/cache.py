"""A cache that is filled by prediction before each token."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_labels, check_size, row_chunks, to_numpy


class PredictiveCache(NamedTuple):
    """Accesses that found their expert there, and those that did not."""

    hits: int
    misses: int


class CacheRun(NamedTuple):
    """The same by layer, with what had to be copied."""

    hits: np.ndarray
    """(L,)."""
    misses: np.ndarray
    """(L,): a wrong prediction; the expert is loaded, used, and does not stay."""
    loads: int
    """Experts copied: those predicted that were not there, and the misses."""


def allocate_slots(demand: ArrayLike, slots: int) -> np.ndarray:
    """Slots of each layer, filled from the earliest: a layer gets what it asks for while there are any.

    Args:
        demand: (L,) experts that each layer wants.
        slots: for all layers together.
    Returns:
        (L,). (3, 2), 4 slots → (3, 1).
    Source:
        ExpertFlow, arXiv 2410.17954.
    """
    wanted = to_numpy(demand)
    wanted = as_labels(wanted, "demand", len(wanted)).astype(np.int64)
    if wanted.size and wanted.min() < 0:
        raise ValueError("demand must not be negative")
    check_size(slots, "slots", least=0)
    before = np.cumsum(wanted) - wanted
    return np.clip(slots - before, 0, wanted)


def predictive_cache(predicted: ArrayLike, ids: ArrayLike, slots: int) -> PredictiveCache:
    """Hits and misses of a predictive cache; see `predictive_cache_run`."""
    run = predictive_cache_run(predicted, ids, slots)
    return PredictiveCache(int(run.hits.sum()), int(run.misses.sum()))


def predictive_cache_run(predicted: ArrayLike, ids: ArrayLike, slots: int) -> CacheRun:
    """A cache that holds, for each token, the experts predicted for it as far as there are slots.

    Args:
        predicted: (T, L, m) experts expected of each layer, best first; -1 = none. (T, L) is taken as m = 1.
        ids: (T, L, k) experts that were chosen; -1 = empty slot.
        slots: for all layers together (`allocate_slots`).
    Source:
        ExpertFlow, arXiv 2410.17954. Two layers may have experts of the same number: they are different experts.
    """
    predicted_TLM, ids_TLK = (
        _three(values, name) for values, name in ((predicted, "predicted"), (ids, "ids"))
    )
    if predicted_TLM.shape[:2] != ids_TLK.shape[:2]:
        raise ValueError(
            f"predicted {predicted_TLM.shape} and ids {ids_TLK.shape} differ in tokens or layers"
        )
    check_size(slots, "slots", least=0)
    hits, misses = np.zeros((2, ids_TLK.shape[1]), np.int64)
    copied, before = 0, np.full((1, *predicted_TLM.shape[1:]), -1, np.int64)
    for rows in row_chunks(len(ids_TLK), predicted_TLM[0].size if len(ids_TLK) else 1):
        held_TLM = _filled(predicted_TLM[rows], slots)
        used = ids_TLK[rows] >= 0
        hit = is_among(ids_TLK[rows], held_TLM)
        hits += hit.sum((0, 2))
        misses += (used & ~hit).sum((0, 2))
        held = np.concatenate([before, held_TLM])
        copied += int(((held_TLM >= 0) & ~is_among(held_TLM, held[:-1])).sum())
        before = held[-1:]
    return CacheRun(hits, misses, copied + int(misses.sum()))


def is_among(ids_TLK: np.ndarray, held_TLM: np.ndarray) -> np.ndarray:
    """(T, L, K) whether each expert is one of those that are held for its token and layer; never for -1."""
    most = int(max(ids_TLK.max(initial=0), held_TLM.max(initial=0))) + 1
    # One column more, for -1: what is written there is never asked for.
    member = np.zeros((*held_TLM.shape[:2], most + 1), bool)
    np.put_along_axis(member, held_TLM, True, 2)
    member[..., -1] = False
    return np.take_along_axis(member, ids_TLK, 2)


def _filled(predicted_TLM: np.ndarray, slots: int) -> np.ndarray:
    """What is held of the predictions: layer after layer and best first, as long as there are slots."""
    wanted_TLM = _first_mention(predicted_TLM)
    order = np.cumsum(wanted_TLM.reshape(len(wanted_TLM), -1), axis=1).reshape(wanted_TLM.shape)
    return np.where(wanted_TLM & (order <= slots), predicted_TLM, -1)


def _three(values: ArrayLike, name: str) -> np.ndarray:
    array = to_numpy(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3:
        raise ValueError(f"{name} must have shape (T, L, k), got {array.shape}")
    return array.astype(np.int64, copy=False)


def _first_mention(predicted_TLM: np.ndarray) -> np.ndarray:
    """Where an expert is named for the first time by its token and layer, and is one."""
    order = np.argsort(predicted_TLM, axis=2, kind="stable")
    rising = np.take_along_axis(predicted_TLM, order, 2)
    first = np.ones_like(rising, bool)
    first[..., 1:] = rising[..., 1:] != rising[..., :-1]
    out = np.empty_like(first)
    np.put_along_axis(out, order, first & (rising >= 0), 2)
    return out
