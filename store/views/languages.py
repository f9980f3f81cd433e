"""How concentrated and how steady the routing of each language is, by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...kernels.alignment import bootstrap_interval, entropy
from ...kernels.token_overlap import token_overlap
from ..notes import with_notes
from ..reader import Trace
from ..selection import Where
from . import view
from ._units import Span, distributions, layers_of
from .alignment import RESAMPLES


def _by_language(
    trace: Trace,
    name: str,
    layers: str | None,
    stream: str,
    span: Span,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Mean over the sequences of each language, with a bootstrap interval over sequences."""
    groups = trace.groups("language")
    rows = []
    for layer in layers_of(trace, layers, stream):
        if name == "entropy":
            prompts_P, q_PE = distributions(trace, layer, stream, span)
            valid_P = np.isfinite(q_PE).all(1)
            values_P = np.full(len(q_PE), np.nan)
            values_P[valid_P] = entropy(q_PE[valid_P]) if valid_P.any() else 0.0
        else:
            arrays = span.arrays(trace, layer, stream)
            prompts_P, values_P = arrays.prompt_index, token_overlap(arrays.count, arrays.tokens)
        group_P = groups.group_P[prompts_P]
        for number, language in enumerate(groups.names):
            values = values_P[(group_P == number) & np.isfinite(values_P)]
            if language is None or len(values) == 0:
                continue
            mean = bootstrap_interval(values, resamples=resamples, seed=seed)
            row: dict[str, Any] = {"language": language, "layer": layer, "stream": stream}
            row |= {name: float(mean.point), "low": _known(mean.low), "high": _known(mean.high)}
            spec = trace.router(layer, stream)
            rows.append(row | {"sequences": len(values), "experts": spec.num_experts, "top_k": spec.top_k})
    return rows


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


@view("routing-entropy")
def routing_entropy(
    trace: Trace,
    *,
    layers: str | None = None,
    where: Where | None = None,
    stream: str = "decoder",
    special: bool = True,
    phase: str | None = None,
    completion: bool | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pa.Table:
    """Entropy of a sequence's mean router probabilities, by language and layer.

    Args:
        layers, where, special, phase, completion, resamples, seed: as in `alignment`.
    Returns:
        language, layer, stream, entropy (nats; mean over sequences of H(q), not the mean entropy of single
        tokens), low, high (95 % bootstrap over sequences), sequences, experts, top_k, entropy_normalised
        (entropy / log E).
    """
    span = Span(where=where, special=special, phase=phase, completion=completion)
    rows = _by_language(trace, "entropy", layers, stream, span, resamples, seed)
    for row in rows:
        row["entropy_normalised"] = row["entropy"] / np.log(row["experts"]) if row["experts"] > 1 else 0.0
    return with_notes(pa.Table.from_pylist(rows), [span.note()])


@view("routing-consistency")
def routing_consistency(
    trace: Trace,
    *,
    layers: str | None = None,
    where: Where | None = None,
    stream: str = "decoder",
    special: bool = True,
    phase: str | None = None,
    completion: bool | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pa.Table:
    """How alike the tokens of one sequence are routed, by language and layer.

    Args:
        layers, where, special, phase, completion, resamples, seed: as in `alignment`.
    Returns:
        language, layer, stream, consistency (share of a token's experts that another token of its sequence
        uses too; mean over pairs, then over sequences), low, high (95 % bootstrap over sequences), sequences
        (of at least two tokens), experts, top_k, chance (k / E: independent uniform routing).
    """
    span = Span(where=where, special=special, phase=phase, completion=completion)
    rows = _by_language(trace, "consistency", layers, stream, span, resamples, seed)
    for row in rows:
        row["chance"] = None if row["top_k"] is None else row["top_k"] / row["experts"]
    ours = "The measure of consistency is our choice: the mean overlap of two tokens of one sequence."
    return with_notes(pa.Table.from_pylist(rows), [ours, span.note()])
