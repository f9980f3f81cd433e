"""What must hold of routing wherever it was recorded: one validator for every importer.

A token chooses each of its experts once; an expert is chosen by no more tokens than passed the router. Engines
hand out zero-filled buffers, so k equal ids where k > 1 are a slot that nobody wrote: of a dense layer
(every token), of a token that was not captured (every layer), or of a capture that failed (everything).

Shape legend: N token rows, L layers, K slots of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..amount import amount
from ..errors import ImportRefused
from ..schema import RouterKey
from .sequences import Counts, Events, ImportedSequence

LARGEST_COUNT = 2**32 - 1
LARGEST_ID = 2**31 - 1


def unwritten(ids_NLK: np.ndarray) -> np.ndarray:
    """(N, L) bool: cells whose K slots all hold the same id, as only a buffer that nobody wrote does."""
    if ids_NLK.shape[2] < 2:
        return np.zeros(ids_NLK.shape[:2], bool)
    return (ids_NLK[:, :, 0] >= 0) & np.all(ids_NLK == ids_NLK[:, :, :1], axis=2)


def without_placeholders(
    grids: Sequence[np.ndarray], layers: Sequence[int], name: str
) -> tuple[list[np.ndarray], list[str]]:
    """Grids (N, L, K) of one model with -1 in place of placeholders, and what was left out, in words.

    Raises:
        ImportRefused: nothing but zeros: the routing was not captured.
    """
    filled = [ids_NLK for ids_NLK in grids if ids_NLK.size]
    if filled and not any(ids_NLK.any() for ids_NLK in filled):
        raise ImportRefused(
            f"{name}: every expert id is 0: the engine returned an unfilled buffer; routing was not captured"
        )
    empty = [unwritten(ids_NLK) for ids_NLK in grids]
    # A layer is dense where no token of any request has routing there; -1 in all slots says the same.
    routed_L = np.zeros(len(layers), bool)
    for ids_NLK, empty_NL in zip(grids, empty, strict=True):
        if ids_NLK.size:
            routed_L |= (~empty_NL & (ids_NLK >= 0).any(axis=2)).any(axis=0)
    dense = [layer for layer, routed in zip(layers, routed_L, strict=True) if not routed]
    placeheld = any(empty_NL[:, ~routed_L].any() for empty_NL in empty if empty_NL.size)
    notes = []
    if dense and placeheld:
        notes.append(
            f"left out, because every token has k equal ids there, as a dense layer's placeholders: "
            f"{_listed(dense)}"
        )
    cleaned, lost = [], 0
    for ids_NLK, empty_NL in zip(grids, empty, strict=True):
        if not ids_NLK.size:
            cleaned.append(ids_NLK)
            continue
        blank_N = np.all(empty_NL[:, routed_L], axis=1) if routed_L.any() else np.zeros(len(empty_NL), bool)
        lost += int(blank_N.sum())
        gone_NL = blank_N[:, None] | ~routed_L[None, :]
        cleaned.append(np.where(gone_NL[:, :, None], -1, ids_NLK.astype(np.int64)))
    if lost:
        notes.append(
            f"{amount(lost, 'token')} with placeholders at every layer: not captured, so without routing here"
        )
    return cleaned, notes


def _listed(layers: Sequence[int]) -> str:
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))


def check_sequences(sequences: Sequence[ImportedSequence], name: str) -> None:
    """Raises ImportRefused for routing that no router can have made; the message names sequence and layer."""
    for sequence in sequences:
        where = f"{name}, sequence {str(sequence.prompt.get('prompt_id'))[:60]!r}"
        for router, events in sequence.events.items():
            _check_events(events, f"{where}, {_named(router)}")
        for router, counts in sequence.counts.items():
            _check_counts(counts, f"{where}, {_named(router)}")


def _named(router: RouterKey) -> str:
    layer, stream = router.layer, router.stream
    if not 0 <= layer <= LARGEST_ID:
        raise ImportRefused(f"layer {layer} is not a whole number from 0 to {LARGEST_ID}")
    return f"layer {layer}" + ("" if stream == "decoder" else f" ({stream})")


def _check_events(events: Events, where: str) -> None:
    event_S = np.repeat(np.arange(len(events.lengths)), events.lengths)
    order = np.lexsort((events.experts, event_S))
    expert_S, event_S = events.experts[order], event_S[order]
    twice = np.flatnonzero((expert_S[1:] == expert_S[:-1]) & (event_S[1:] == event_S[:-1]))
    if len(twice):
        expert, token = int(expert_S[twice[0]]), int(events.position[event_S[twice[0]]])
        raise ImportRefused(f"{where}: expert {expert} occurs twice in the token at position {token}")
    if (
        len(events.position)
        and not 0 <= int(events.position.min()) <= int(events.position.max()) <= LARGEST_ID
    ):
        raise ImportRefused(f"{where}: a position is not a whole number from 0 to {LARGEST_ID}")


def _check_counts(counts: Counts, where: str) -> None:
    if (counts.count_E < 0).any():
        raise ImportRefused(f"{where}: the count of expert {int(np.argmin(counts.count_E))} is negative")
    most = int(np.argmax(counts.count_E))
    count = int(counts.count_E[most])
    if count > LARGEST_COUNT:
        raise ImportRefused(f"{where}: expert {most} has {count} choices, more than {LARGEST_COUNT}")
    if count > counts.tokens:
        raise ImportRefused(
            f"{where}: expert {most} has {count} choices, but only {counts.tokens} tokens passed: "
            "a token chooses an expert at most once"
        )
    if counts.weight_sum_E is not None and not np.isfinite(counts.weight_sum_E).all():
        raise ImportRefused(f"{where}: a sum of weights is not a finite number")
