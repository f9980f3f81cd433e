"""Counts of chosen experts, of which no single events are known: most of the world's routing data.

Shape legend: S sequences or steps, L layers, E experts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from ..schema import RouterKey
from .build import Imported, write_trace
from .check import LARGEST_COUNT
from .engines import layer_numbers
from .sequences import Counts, ImportedSequence

CHOICES = "choices"
"""What `settings.import.tokens` says where nobody knows how many tokens the counts are of."""
NEAR = 1.1
"""An expert may have this many times the tokens that counts / k give: recorders that sample are a little off."""


@dataclass
class CountArray:
    """What a file of counts holds."""

    prompts: list[dict[str, Any]]
    """S sequences: columns of `schema.PROMPTS`, anything else under `tags`."""
    count_SLE: np.ndarray
    """Whole numbers; all 0 where a sequence has nothing at a layer."""
    weight_sum_SLE: np.ndarray | None = None
    tokens_SL: np.ndarray | None = None
    """Tokens that passed each router, where the file says; 0 where it doesn't."""
    layers: list[int] | None = None
    """Numbers of the layers, where the file names them."""
    what: str = "sequence"
    notes: list[str] = field(default_factory=list)


def write_counts(
    counts: CountArray,
    out: str | os.PathLike[str],
    *,
    source: dict[str, Any],
    layers: Sequence[int] | None,
    top_k: int | None,
    experts: int | None,
) -> Imported:
    """Check the counts and write the trace.

    Raises:
        ImportRefused: counts that no router can have made, or that k does not fit.
    """
    name = Path(str(source["path"])).name
    depth = counts.count_SLE.shape[1]
    if (counts.count_SLE < 0).any():
        raise ImportRefused(f"{name}: a count is negative")
    if int(counts.count_SLE.max(initial=0)) > LARGEST_COUNT:
        raise ImportRefused(f"{name}: a count is {int(counts.count_SLE.max())}, more than {LARGEST_COUNT}")
    if layers is not None and counts.layers is not None and list(layers) != counts.layers:
        raise ImportRefused(f"{name} names its layers itself: leave out the layer numbers")
    numbers = counts.layers if counts.layers is not None else layer_numbers(layers, depth)
    if len(set(numbers)) < len(numbers):
        raise ImportRefused(f"{name}: a layer number is given twice: {list(numbers)[:20]}")
    dense_L = _dense(counts, top_k)
    tokens_SL, how = _tokens(counts, top_k, ~dense_L, name, numbers)
    if dense_L.any():
        left = ", ".join(str(numbers[at]) for at in np.flatnonzero(dense_L))
        counts.notes.append(
            f"left out, because one expert has all choices of every token there: layers {left}"
        )
    sequences = [
        _sequence(counts, step, tokens_SL, dense_L, numbers)
        for step in np.flatnonzero(counts.count_SLE.any(axis=(1, 2))).tolist()
    ]
    missing = len(counts.count_SLE) - len(sequences)
    if missing:
        counts.notes.append(
            f"{missing} of {len(counts.count_SLE)} {counts.what}s hold no choice and are left out"
        )
    known = ["counts only: there are no single events or tokens; views that need them say so", *how]
    return write_trace(
        sequences,
        out,
        source=source | {"tokens": "known" if counts.tokens_SL is not None or top_k else CHOICES},
        experts=experts if experts is not None else counts.count_SLE.shape[2],
        notes=[*known, *counts.notes],
        top_k=top_k,
    )


def _tokens(
    counts: CountArray, top_k: int | None, routed_L: np.ndarray, name: str, numbers: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    """(S, L) tokens that passed each router, and how they are known."""
    total_SL = counts.count_SLE.sum(axis=2, dtype=np.int64)
    if counts.tokens_SL is not None:
        given = (counts.tokens_SL > 0) | (total_SL == 0)
        if not given.all():
            raise ImportRefused(f"{name}: tokens are given for some counts only: give them for all or none")
        if top_k is not None and (total_SL > counts.tokens_SL * top_k).any():
            step, at = np.argwhere(total_SL > counts.tokens_SL * top_k)[0]
            raise ImportRefused(
                f"{name}, {counts.what} {step}, layer {numbers[at]}: {total_SL[step, at]} choices of "
                f"{counts.tokens_SL[step, at]} tokens are more than k = {top_k} each"
            )
        return counts.tokens_SL.astype(np.int64), []
    if top_k is None:
        return total_SL, [
            "how many tokens the counts are of is unknown (give top_k, or a column tokens): every choice is counted "
            "as a token, so the shares of a layer sum to 1"
        ]
    # A token makes k choices, so tokens = choices / k, (S, L); and at least the busiest expert's, which a token
    # can choose once only. `NEAR` and + 1 allow for recorders that sample.
    exact_SL = total_SL / top_k
    most_SL = counts.count_SLE.max(axis=2, initial=0)
    tokens_SL = np.maximum(np.rint(exact_SL).astype(np.int64), most_SL)
    bad_SL = (most_SL > NEAR * exact_SL + 1) & routed_L
    if bad_SL.any():
        step, at = np.argwhere(bad_SL)[0]
        raise ImportRefused(
            f"{name}, {counts.what} {step}, layer {numbers[at]}: an expert has {most_SL[step, at]} of "
            f"{total_SL[step, at]} choices, more than the {exact_SL[step, at]:.0f} tokens that k = {top_k} gives"
        )
    how = [f"tokens are counts / k, with k = {top_k} as given"]
    rough = int((total_SL[:, routed_L] % top_k != 0).sum())
    if rough:
        how.append(
            f"{rough} of {int((total_SL[:, routed_L] > 0).sum())} sums of counts are not multiples of k = {top_k} "
            "(approximate or masked counts): their tokens are rounded"
        )
    return tokens_SL, how


def _dense(counts: CountArray, top_k: int | None) -> np.ndarray:
    """(L,) bool: layers where one and the same expert has all choices, though a token makes several: the
    placeholders of a dense layer."""
    one_L = counts.count_SLE.any(axis=0).sum(axis=1) == 1
    if counts.tokens_SL is not None:
        return one_L & (counts.count_SLE.sum(axis=2, dtype=np.int64) > counts.tokens_SL).any(axis=0)
    return one_L & (top_k is not None and top_k > 1)


def _sequence(
    counts: CountArray, step: int, tokens_SL: np.ndarray, dense_L: np.ndarray, numbers: Sequence[int]
) -> ImportedSequence:
    sequence = ImportedSequence({"tags": {}, **counts.prompts[step]}, {"position": []})
    weights = counts.weight_sum_SLE
    for at, layer in enumerate(numbers):
        count_E = counts.count_SLE[step, at].astype(np.int64)
        if count_E.any() and not dense_L[at]:
            summed_E = None if weights is None else weights[step, at]
            sequence.counts[RouterKey("decoder", layer)] = Counts(int(tokens_SL[step, at]), count_E, summed_E)
    return sequence
