"""The choices of tokens at all layers at once: what goes from layer to layer, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...amount import amount
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.sequences import PHASE, starts_of
from ...read.token_filter import TokenFilter
from ...read.trace_rows import TraceRows

MOST_TOKENS = 1 << 18
"""Tokens held at once, over all layers; a trace with more gives a random choice of its prompts."""


@dataclass(frozen=True)
class Paths:
    """T tokens, in order, that passed all L layers."""

    layers: list[int]
    ids_TLK: np.ndarray
    """(T, L, K) int32, −1 = empty slot."""
    prompt_T: np.ndarray
    """(T,) row of the prompt in `Trace.prompts()`."""
    starts_S: np.ndarray
    """(S,) rows at which sequences begin."""
    note: str
    """What was left out; empty where nothing was."""

    def of(self, prompts_P: np.ndarray) -> Paths:
        """The tokens of some prompts."""
        kept_T = prompts_P[self.prompt_T]
        first_T = np.zeros(len(kept_T), bool)
        first_T[self.starts_S] = True
        return Paths(
            self.layers,
            self.ids_TLK[kept_T],
            self.prompt_T[kept_T],
            np.flatnonzero(first_T[kept_T]),
            self.note,
        )


def paths(trace: TraceRows, layers: list[int], stream: str, tokens: TokenFilter, seed: int = 0) -> Paths:
    """Read the choices of all layers, of as many prompts as fit into `MOST_TOKENS`."""
    chosen_P, note = _some(trace, layers[0], stream, tokens, seed)
    keys, ids, starts = None, [], np.zeros(0, np.int64)
    for layer in layers:
        key_T, ids_TK, start_T = _of_layer(trace, layer, stream, tokens, chosen_P)
        if keys is None:
            keys, starts = key_T, start_T
        elif len(key_T) != len(keys) or (key_T != keys).any():
            # A token may miss a router (early exits, dropped tokens): those that passed all of them are kept.
            both = np.isin(keys, key_T)
            ids, keys, starts = [one[both] for one in ids], keys[both], starts[both]
            ids_TK = ids_TK[np.isin(key_T, keys)]
        ids.append(ids_TK)
    assert keys is not None
    widest = max(one.shape[1] for one in ids)
    out = np.full((len(keys), len(layers), widest), -1, np.int32)
    for at, one in enumerate(ids):
        out[:, at, : one.shape[1]] = one
    prompt_T = keys >> 32
    first = starts | np.r_[True, np.diff(prompt_T) != 0][: len(keys)]
    return Paths(layers, out, prompt_T, np.flatnonzero(first), note)


def _some(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter, seed: int
) -> tuple[np.ndarray, str]:
    rows = trace.rollup_arrays(layer, stream, tokens=tokens)
    chosen_P = np.zeros(trace.num_prompts, bool)
    if rows.tokens.sum() <= MOST_TOKENS:
        chosen_P[rows.prompt_index] = True
        return chosen_P, ""
    order = np.random.default_rng(seed).permutation(len(rows.tokens))
    fits = np.cumsum(rows.tokens[order]) <= MOST_TOKENS
    fits[0] = True
    chosen_P[rows.prompt_index[order[fits]]] = True
    return chosen_P, f"Layer-to-layer traffic is measured on {amount(fits.sum(), 'randomly drawn prompt')}."


def _of_layer(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter, chosen_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of tokens (prompt and position in one number), their experts, and whether a sequence begins there."""

    def of_part(batch: EventBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kept_N = chosen_P[batch.prompt_index]
        first_N = np.zeros(len(kept_N), bool)
        first_N[starts_of(batch)[:-1]] = True
        # One rising number a token, by which the layers are joined.
        key_N = (batch.prompt_index.astype(np.int64) << 32) | batch.position_N
        return key_N[kept_N], batch.padded()[kept_N].astype(np.int32), first_N[kept_N]

    parts = list(map_router(trace, of_part, layer, stream, token_columns=PHASE, tokens=tokens))
    width = max((part[1].shape[1] for part in parts), default=1)
    ids = [np.pad(part[1], ((0, 0), (0, width - part[1].shape[1])), constant_values=-1) for part in parts]
    if not parts:
        return np.zeros(0, np.int64), np.zeros((0, 1), np.int32), np.zeros(0, bool)
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate(ids),
        np.concatenate([p[2] for p in parts]),
    )
