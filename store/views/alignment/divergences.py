"""Divergences of parallel texts, layer by layer, remembered: a page asks for them again whenever a control moves.

Where that is cheap, all pairs of languages are worked out at once: another pivot, or the matrix of another window
of layers, is then only another choice of columns.

Shape legend: U parallel units, N languages, M those other than the pivot, Q pairs of languages, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....kernels.alignment import divergence_and_entropy, expect_divergences
from ...read.token_filter import TokenFilter
from ...read.trace_rows import TraceRows
from .prompts import unit_sums
from .units import Units

EVERY_PAIR = 1 << 30
"""Probabilities of pairs (a few seconds' work) up to which all pairs are worked out for the sake of one."""


def all_pairs(
    trace: TraceRows, units: Units, layers: Sequence[int], stream: str, tokens: TokenFilter
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer: divergence (U, Q) of the pairs of `np.triu_indices(N, 1)`, 0 where there is no pair, and
    which texts are there (U, N)."""
    one, other = np.triu_indices(len(units.languages), 1)
    return _remembered(trace, units, layers, stream, tokens, "every", one, other)


def from_pivot(
    trace: TraceRows, units: Units, layers: Sequence[int], stream: str, tokens: TokenFilter
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer: divergence (U, M) of each unit's translations from its pivot text, 0 where there is no pair,
    and paired (U, M)."""
    others = np.array(units.others, np.int64)
    pivots = np.full(len(others), units.pivot)
    one, other = np.triu_indices(len(units.languages), 1)
    experts = max((trace.router(layer, stream).num_experts for layer in layers), default=0)
    # Where all pairs of N languages are cheap they are worked out once, and a pivot picks M = N - 1 of the Q pairs:
    # a change of pivot then costs nothing. number_NN is the column of a pair, in either order.
    if len(layers) * units.shape[0] * len(one) * experts > EVERY_PAIR:
        found = _remembered(trace, units, layers, stream, tokens, units.pivot, pivots, others)
        columns = np.arange(len(others))
    else:
        found = _remembered(trace, units, layers, stream, tokens, "every", one, other)
        number_NN = np.zeros(units.shape[1:] * 2, np.int64)
        number_NN[one, other] = number_NN[other, one] = np.arange(len(one))
        columns = number_NN[units.pivot, others]
    return [
        (divergence_UQ[:, columns], present_UN[:, others] & present_UN[:, [units.pivot]])
        for divergence_UQ, present_UN in found
    ]


def _remembered(
    trace: TraceRows,
    units: Units,
    layers: Sequence[int],
    stream: str,
    tokens: TokenFilter,
    which: str | int,
    one_Q: np.ndarray,
    other_Q: np.ndarray,
) -> list[tuple[np.ndarray, np.ndarray]]:
    def of(layer: int) -> tuple[np.ndarray, np.ndarray]:
        divergence_UQ, present_UN = np.zeros((units.shape[0], len(one_Q))), np.zeros(units.shape, bool)
        entropy_UN = np.zeros(units.shape)
        for here, sum_UNE, there_UN in unit_sums(trace, units, layer, stream, tokens):
            divergence_UQ[here], entropy_UN[here] = divergence_and_entropy(sum_UNE, one_Q, other_Q, there_UN)
            present_UN[here] = there_UN
        if units.single and present_UN.sum() == trace.num_prompts:
            trace.memo.put(("entropy", stream, tokens.key, layer), (entropy_UN.ravel()[units.cell_P],))
        return divergence_UQ, present_UN

    key = ("divergence", which, stream, tokens.key, units.key)
    missing = [layer for layer in layers if trace.memo.find((*key, layer)) is None]
    experts = max((trace.router(layer, stream).num_experts for layer in missing), default=0)
    expect_divergences(len(missing) * units.shape[0], len(one_Q), experts)
    trace.read_ahead(missing, stream, ("probability_sum",))
    return trace.in_threads(lambda layer: trace.memo.get((*key, layer), lambda: of(layer)), layers)
