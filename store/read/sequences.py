"""Tokens of a batch as sequences: what a cache or a window of consecutive tokens may not cross."""

from __future__ import annotations

import numpy as np

from .batches import EventBatch

PHASE = ("phase",)
"""Token columns that `starts_of` and `phase_of` need."""


def starts_of(batch: EventBatch) -> np.ndarray:
    """(S + 1,) first token of each sequence, and N: a sequence ends with its prompt, its phase, or where the filter
    leaves a token out."""
    if len(batch.prompt_N) == 0:
        return np.zeros(1, np.int64)
    new_N = np.diff(batch.prompt_N) != 0
    new_N |= np.diff(batch.position_N) != 1
    phase_N = batch.tokens["phase"]
    new_N |= phase_N[1:] != phase_N[:-1]
    return np.r_[0, np.flatnonzero(new_N) + 1, len(batch.prompt_N)]


def firsts_of(batch: EventBatch) -> np.ndarray:
    """(N,) int64: the expert of each token with the largest gate weight; -1 for a token without any."""
    if batch.offsets is None:
        return batch.experts[:, 0].astype(np.int64)
    padded = batch.padded()
    return padded[:, 0].astype(np.int64) if padded.shape[1] else np.full(len(padded), -1)
