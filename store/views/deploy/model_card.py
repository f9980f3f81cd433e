"""What the shape of the traced model says of its sparsity, and of the compute that it should save."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ....kernels.scaling import efficiency_leverage, granularity, outside_fit, sparsity, tokens_per_parameter
from ...notes import with_notes
from ...read.trace_rows import TraceRows
from ..registry import view

COMPUTE = 1e22
"""Training FLOPs where the training tokens are not given: those of the law's own worked points."""

_SCHEMA = pa.schema(
    [
        *[("model", pa.string()), ("routers", pa.int32()), ("experts", pa.int32()), ("top_k", pa.float64())],
        *[("sparsity", pa.float64()), ("parameters", pa.int64()), ("active_parameters", pa.int64())],
        *[("granularity", pa.float64()), ("tokens_per_parameter", pa.float64()), ("compute", pa.float64())],
        *[("leverage", pa.float64()), ("inside_fit", pa.bool_())],
    ]
)


@view("model-card")
def model_card(trace: TraceRows, *, training_tokens: float | None = None) -> pa.Table:
    """Sparsity, granularity, parameters and efficiency leverage of the traced model.

    Args:
        training_tokens: that the model was trained on: gives tokens per parameter, and the training compute as
            6 · active parameters · tokens.
    Returns:
        model, routers, experts, top_k (of the largest router), sparsity = 1 − k / E, parameters, active_parameters,
        granularity = 2 · d_model / d_expert (from the parameters that a token leaves idle, for experts of three
        matrices), tokens_per_parameter, compute (FLOPs; 1e22 where the tokens are not given), leverage (arXiv
        2507.17702), inside_fit (near the law's worked points). What the trace does not tell is null.
    """
    row = card_of(trace.manifest.model, trace.routers, training_tokens)
    notes = [
        "Efficiency leverage is a fit over other models (arXiv 2507.17702): how much more compute a dense model would "
        "need. It says nothing of this model's quality."
    ]
    if row["leverage"] is not None:
        notes += outside_fit(1 - row["sparsity"], row["granularity"])
    return with_notes(pa.Table.from_pylist([row], schema=_SCHEMA), notes)


def card_of(
    model: dict[str, Any], routers: list[Any], training_tokens: float | None = None
) -> dict[str, Any]:
    """The row of the view, of a manifest's model and routers."""
    sized = [spec for spec in routers if spec.top_k is not None and spec.top_k <= spec.num_experts]
    largest = max(sized, key=lambda spec: spec.num_experts, default=None)
    total, active, hidden = (model.get(name) for name in ("parameters", "active_parameters", "hidden_size"))
    row: dict[str, Any] = dict.fromkeys(_SCHEMA.names)
    row |= {
        "model": model.get("name"),
        "routers": len(routers),
        "parameters": total,
        "active_parameters": active,
    }
    if largest is None:
        return row
    row |= {"experts": largest.num_experts, "top_k": largest.top_k}
    row["sparsity"] = sparsity(largest.top_k, largest.num_experts)
    if training_tokens is not None and total:
        row["tokens_per_parameter"] = tokens_per_parameter(training_tokens, total)
    idle = sum(spec.num_experts - spec.top_k for spec in sized)
    if not (total and active and hidden and idle and total > active):
        return row
    row["granularity"] = granularity(hidden, (total - active) / idle)
    row["compute"] = COMPUTE if training_tokens is None else 6 * active * training_tokens
    row["leverage"] = efficiency_leverage(1 - row["sparsity"], row["granularity"], row["compute"])
    row["inside_fit"] = not outside_fit(1 - row["sparsity"], row["granularity"])
    return row
