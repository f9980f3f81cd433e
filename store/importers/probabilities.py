"""Full router probabilities of imported events: what alignment and entropy need of them.

Shape legend: N events, E experts, S chosen experts of all events, R rollup rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...kernels.alignment import entropy
from ..schema import RouterSpec, RouterSums
from ..write.rollups import PHASES
from .sequences import Events, ImportedSequence

SUM_TOLERANCE = 0.02
"""Probabilities that were printed with few digits, or kept as bfloat16, still sum to 1 within this."""

Key = tuple[int, int, bool, bool]
"""Prompt, phase, special, completion: a rollup row."""


def chosen_extras(events: Sequence[Events]) -> dict[str, np.ndarray]:
    """Columns of the events: the probability of each chosen expert, and each event's entropy in nats."""
    if not events or any(e.probabilities_NE is None for e in events):
        return {}
    chosen, entropies = [], []
    for e in events:
        assert e.probabilities_NE is not None
        row_S = np.repeat(np.arange(len(e.lengths)), e.lengths)
        chosen.append(e.probabilities_NE[row_S, e.experts])
        entropies.append(_entropy(e.probabilities_NE))
    return {
        "probability": np.concatenate(chosen).astype(np.float32),
        "entropy": np.concatenate(entropies).astype(np.float32),
    }


def router_sums(sequences: Sequence[ImportedSequence], spec: RouterSpec) -> RouterSums | None:
    """Sums over the tokens of each rollup row of one router; None where its probabilities are unknown."""
    sums: dict[Key, tuple[np.ndarray, float]] = {}
    for number, sequence in enumerate(sequences):
        events = sequence.events.get(spec.key)
        if events is None:
            continue
        if events.probabilities_NE is None:
            return None
        # (N,), one for each event: the entropy of summed probabilities would be another number.
        entropy_N = _entropy(events.probabilities_NE)
        for key, rows in _rows_by_key(number, sequence, events).items():
            sums[key] = (events.probabilities_NE[rows].sum(0, dtype=np.float64), float(entropy_N[rows].sum()))
    if not sums:
        return None
    keys = sorted(sums)
    return RouterSums(
        layer=spec.layer,
        stream=spec.stream,
        prompt=np.array([key[0] for key in keys], np.int32),
        phase=np.array([key[1] for key in keys], np.uint8),
        special=np.array([key[2] for key in keys], bool),
        completion=np.array([key[3] for key in keys], bool),
        probability_sum=np.stack([sums[key][0] for key in keys]).astype(np.float32),
        entropy_sum=np.array([sums[key][1] for key in keys]),
        nan_tokens=np.zeros(len(keys), np.int64),
    )


def _rows_by_key(number: int, sequence: ImportedSequence, events: Events) -> dict[Key, list[int]]:
    tokens = sequence.tokens
    at = {position: row for row, position in enumerate(tokens["position"])}
    columns = {name: tokens.get(name) or [None] * len(at) for name in ("phase", "special", "completion")}
    found: dict[Key, list[int]] = {}
    for row, position in enumerate(events.position.tolist()):
        token = at[position]
        phase = PHASES.index(columns["phase"][token] or "unknown")
        flags = bool(columns["special"][token]), bool(columns["completion"][token])
        found.setdefault((number, phase, *flags), []).append(row)
    return found


def _entropy(probabilities_NE: np.ndarray) -> np.ndarray:
    """Of each event, in nats; probabilities of a sigmoid are scaled to sum to 1 first."""
    exact = probabilities_NE.astype(np.float64)
    return entropy(exact / exact.sum(1, keepdims=True))
