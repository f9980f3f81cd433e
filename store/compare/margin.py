"""Whether flips happen where the choice was close."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...kernels.agreement import selection_margin
from ..errors import UnknownColumn
from ..notes import with_notes
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..read.trace_parts import retry_without_damaged_part
from ..trace import Trace
from ..views.options import DECODER, INTERVALS, Intervals, Routers
from .by_layer import ends, mean_over_prompts
from .layers import compared_layers
from .pairs import Pairs
from .token_rows import key_of

TENTHS = 10
_EXPLAINED = 0.999
_SCHEMA = pa.schema(
    [("layer", pa.int32()), ("stream", pa.string()), ("decile", pa.int32()), ("tokens", pa.int64())]
    + [
        (name, pa.float64())
        for name in ("margin_from", "margin_to", "flip_rate", "flip_rate_low", "flip_rate_high")
    ]
)


def agreement_margin(
    pairs: Pairs,
    *,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """Flip rate by how close A's choice was: deciles of the selection margin of each layer.

    Args:
    Returns:
        layer, stream, decile (1: the smallest margins), tokens, margin_from, margin_to (k-th largest router logit minus
        the next), flip_rate with its 95 % interval over prompts. A note names layers where the captured logits do
        not explain the choice (a correction bias, groups of experts).
    Raises:
        UnknownColumn: A has no logits: trace it with --capture ids,weights,logits.
    """
    if "logits" not in pairs.a.manifest.capture:
        raise UnknownColumn(
            "A has no router logits, so the margins of its choices are unknown: trace it with "
            "`--capture ids,weights,logits`"
        )
    wanted_N, rows, unexplained = pairs.wanted(tokens), [], []
    for layer, found, good in compared_layers(pairs, routers, wanted_N):
        if found.spec.top_k is None or found.spec.top_k >= found.spec.num_experts:
            continue
        margin_N, explained = _margins(pairs, layer, routers.stream, found.pair_N)
        if explained < _EXPLAINED:
            unexplained.append(layer)
        kept = good & ~np.isnan(margin_N)
        for row in _tenths(margin_N[kept], found.flipped_N[kept], found.prompt_N[kept], intervals):
            rows.append({"layer": layer, "stream": routers.stream} | row)
    notes = [tokens.note()]
    if unexplained:
        notes.append(
            f"In layers {', '.join(map(str, unexplained))} the router does not always choose the largest logits (it "
            "has a correction bias or expert groups): the margin there is not the margin of the choice."
        )
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), notes)


def _margins(pairs: Pairs, layer: int, stream: str, pair_N: np.ndarray) -> tuple[np.ndarray, float]:
    """A's margin for each of these pairs, and the share of A's events whose experts have the largest logits."""
    k = pairs.a.router(layer, stream).top_k
    assert k is not None

    @retry_without_damaged_part
    def read(trace: Trace) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        pieces = []
        for batch in trace.iter_router(layer, stream, columns=("experts", "logits")):
            logits = batch.columns["logits"]
            key = key_of(batch.prompt_index, batch.position_N)
            pieces.append((key, selection_margin(logits, k), _explained(batch.padded(), logits, k)))
        return pieces

    key, margin, explained = (np.concatenate(values) for values in zip(*read(pairs.a), strict=True))
    at = np.searchsorted(key, pairs.tokens_a.key_N[pairs.row_a[pair_N]])
    known = ~np.isnan(margin)
    return margin[np.minimum(at, len(key) - 1)], float(explained[known].mean()) if known.any() else 1.0


def _explained(ids_NK: np.ndarray, logits_NE: np.ndarray, k: int) -> np.ndarray:
    """(N,) bool: whether k experts were chosen and none of them has a smaller logit than the k-th largest. Where logits
    tie, any of the tied experts may be the one."""
    filled_NK = ids_NK >= 0
    chosen_NK = np.take_along_axis(logits_NE, np.where(filled_NK, ids_NK, 0), axis=1)
    least_N = np.where(filled_NK, chosen_NK, np.inf).min(axis=1, initial=np.inf)
    kth_N = -np.partition(-logits_NE, k - 1, axis=1)[:, k - 1]
    return (filled_NK.sum(1) == k) & (least_N >= kth_N)


def _tenths(
    margin_N: np.ndarray, flipped_N: np.ndarray, prompt_N: np.ndarray, drawn: Intervals
) -> list[dict[str, Any]]:
    rows = []
    order = np.argsort(margin_N, kind="stable")
    for number, chosen in enumerate(np.array_split(order, TENTHS), 1):
        if not len(chosen):
            continue
        prompt = np.unique(prompt_N[chosen], return_inverse=True)[1]
        found = mean_over_prompts(flipped_N[chosen], prompt, int(prompt.max()) + 1, drawn)
        ends_of = {"margin_from": float(margin_N[chosen[0]]), "margin_to": float(margin_N[chosen[-1]])}
        rows.append({"decile": number, "tokens": len(chosen)} | ends_of | ends("flip_rate", found))
    return rows
