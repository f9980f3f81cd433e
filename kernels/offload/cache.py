"""A cache that is filled by prediction before each token."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_labels, check_size, to_numpy


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
    wanted_TLM = _first_mention(predicted_TLM)
    # Places before each one, layer after layer and best first: those below `slots` are filled.
    tokens = len(wanted_TLM)
    order = np.cumsum(wanted_TLM.reshape(tokens, -1), axis=1).reshape(wanted_TLM.shape)
    held_TLM = np.where(wanted_TLM & (order <= slots), predicted_TLM, -1)
    used = ids_TLK >= 0
    hit = used & (ids_TLK[..., None] == held_TLM[:, :, None]).any(-1)
    stays = np.zeros_like(held_TLM, bool)
    stays[1:] = (held_TLM[1:, :, :, None] == held_TLM[:-1, :, None]).any(-1)
    copied = int(((held_TLM >= 0) & ~stays).sum())
    missed = used & ~hit
    return CacheRun(hit.sum((0, 2)), missed.sum((0, 2)), copied + int(missed.sum()))


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
    again = np.zeros_like(predicted_TLM, bool)
    for at in range(1, predicted_TLM.shape[2]):
        again[..., at] = (predicted_TLM[..., :at] == predicted_TLM[..., at : at + 1]).any(-1)
    return (predicted_TLM >= 0) & ~again
