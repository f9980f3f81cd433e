"""How concentrated and how steady the routing of each language is, by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.statistics.bootstrap import interval_of_enough
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..chance import even_share_at
from ..options import DECODER, INTERVALS, Intervals, Routers
from ..registry import view
from .prompts import entropies, overlaps


def _by_language(
    trace: TraceRows, name: str, routers: Routers, tokens: TokenFilter, drawn: Intervals
) -> list[dict[str, Any]]:
    """Mean over the sequences of each language, with a bootstrap interval over sequences."""
    groups = trace.groups("language")
    stream, chosen = routers.stream, routers.numbers(trace)
    values_PL = np.stack(_of_prompts(trace, name, chosen, stream, tokens), axis=1)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for number, language in enumerate(groups.names):
        own_SL = values_PL[groups.group_P == number]
        # Sequences without a value at some layers are resampled apart, layer by layer.
        for there_S, at_L in _same_masks(np.isfinite(own_SL)):
            if language is None or not there_S.any():
                continue
            mean = interval_of_enough(own_SL[there_S][:, at_L], resamples=drawn.resamples, seed=drawn.seed)
            for i, at in enumerate(at_L):
                ends = {"low": _known(mean.low[i]), "high": _known(mean.high[i])}
                rows[int(at), number] = {
                    "language": language, "layer": chosen[at], "stream": stream, name: float(mean.point[i]),
                    **ends, "sequences": int(there_S.sum()),
                }  # fmt: skip
    specs = [trace.router(layer, stream) for layer in chosen]
    return [
        rows[key] | {"experts": specs[key[0]].num_experts, "top_k": specs[key[0]].top_k}
        for key in sorted(rows)
    ]


def _same_masks(there_SL: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Different columns of a mask (S,), each with the numbers of those that are like it."""
    if there_SL.all():
        return [(np.ones(len(there_SL), bool), np.arange(there_SL.shape[1]))]
    masks_SL, same_L = np.unique(there_SL, axis=1, return_inverse=True)
    return [(there_S, np.flatnonzero(same_L.ravel() == mask)) for mask, there_S in enumerate(masks_SL.T)]


def _of_prompts(
    trace: TraceRows, name: str, layers: list[int], stream: str, tokens: TokenFilter
) -> list[np.ndarray]:
    """For each layer (P,) over all prompts: entropy or consistency, NaN where it is not defined."""

    def of(layer: int) -> tuple[np.ndarray]:
        prompts, values = (entropies if name == "entropy" else overlaps)(trace, layer, stream, tokens)
        values_P = np.full(trace.num_prompts, np.nan)
        values_P[prompts] = values
        return (values_P,)

    key = (name, stream, tokens.key)
    missing = [layer for layer in layers if trace.memo.find((*key, layer)) is None]
    trace.read_ahead(missing, stream, ("probability_sum",) if name == "entropy" else ("count",))
    found = trace.in_threads(lambda layer: trace.memo.get((*key, layer), lambda: of(layer)), layers)
    return [values_P for (values_P,) in found]


def _schema(name: str, more: str) -> pa.Schema:
    floats = {key: pa.float64() for key in (name, "low", "high")}
    kinds = {"language": pa.string(), "layer": pa.int64(), "stream": pa.string(), **floats}
    kinds |= {"sequences": pa.int64(), "experts": pa.int64(), "top_k": pa.int64(), more: pa.float64()}
    return pa.schema(list(kinds.items()))


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


@view("routing-entropy", needs=("languages",))
def routing_entropy(
    trace: TraceRows,
    *,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """Entropy of a sequence's mean router probabilities, by language and layer.

    Returns:
        language, layer, stream, entropy (nats; mean over sequences of H(q), not the mean entropy of single
        tokens), low, high (95 % bootstrap over sequences), sequences, experts, top_k, entropy_normalised
        (entropy / log E).
    """
    rows = _by_language(trace, "entropy", routers, tokens, intervals)
    for row in rows:
        row["entropy_normalised"] = row["entropy"] / np.log(row["experts"]) if row["experts"] > 1 else 0.0
    table = pa.Table.from_pylist(rows, schema=_schema("entropy", "entropy_normalised"))
    return with_notes(table, [intervals.note("sequences"), tokens.note()])


@view("routing-consistency", needs=("token_numbers", "languages"))
def routing_consistency(
    trace: TraceRows,
    *,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """How alike the tokens of one sequence are routed, by language and layer.

    Returns:
        language, layer, stream, consistency (share of a token's experts that another token of its sequence
        uses too; mean over pairs, then over sequences), low, high (95 % bootstrap over sequences), sequences
        (of at least two tokens), experts, top_k, chance (k / E: independent uniform routing).
    """
    rows = _by_language(trace, "consistency", routers, tokens, intervals)
    chance_L = {spec.layer: even_share_at(trace, spec, tokens) for spec in routers.specs(trace)}
    for row in rows:
        row["chance"] = chance_L[row["layer"]]
    ours = "The measure of consistency is our choice: the mean overlap of two tokens of one sequence."
    table = pa.Table.from_pylist(rows, schema=_schema("consistency", "chance"))
    return with_notes(table, [ours, intervals.note("sequences"), tokens.note()])
