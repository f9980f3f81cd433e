"""Load over the course of a run, and whether an imbalance is one prompt's doing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.counting import load_imbalance
from ...notes import with_notes
from ...read.arrays import RollupArrays
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view

NEAR_DEAD = 0.1
"""An expert used less than this share of an even load is called near-dead [ours]."""

_MEASURES = ("max_over_mean", "cv", "gini", "entropy_normalised")
_DRIFT = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("batch", pa.int32()), ("first", pa.int64())],
        *[("prompts", pa.int64()), ("tokens", pa.int64())],
        *[(name, pa.float64()) for name in _MEASURES],
        *[("dead", pa.int64()), ("near_dead", pa.int64()), ("moved", pa.float64())],
    ]
)
_INFLUENCE = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("max_over_mean", pa.float64())],
        *[("busiest", pa.int32()), ("prompt_id", pa.string()), ("without", pa.float64())],
        *[("change", pa.float64()), ("low", pa.float64()), ("high", pa.float64())],
        *[("prompt_share", pa.float64()), ("prompts", pa.int64())],
    ]
)


@view("load-drift")
def load_drift(
    trace: TraceRows,
    *,
    batches: int = 10,
    layer: int | None = None,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """How evenly experts are loaded over the course of the run: by stretch of consecutive prompts, and over all.

    Args:
        batches: stretches of about equally many tokens, whole prompts each.
    Returns:
        layer, stream, batch (0, 1, ...; null for the whole run), first (row of its first prompt), prompts, tokens,
        max_over_mean, cv, gini, entropy_normalised, dead (experts that no token chose), near_dead (chosen by less than
        a tenth of an even share; the dead among them), moved (half the sum of |share − share over the whole run| of the
        uses: 0 for the same load, 1 for other experts altogether). See docs/methods/counting.md.
    """
    records: list[dict[str, Any]] = []
    for spec in trace.select_routers(layer, stream):
        sums = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        total_E = sums.count.sum(0)
        if not total_E.any():
            continue
        stretch_P = _stretches(sums, max(batches, 1))
        for batch in [None, *range(stretch_P[-1] + 1)]:
            of = np.ones(len(stretch_P), bool) if batch is None else stretch_P == batch
            record = {"layer": spec.layer, "stream": spec.stream, "batch": batch}
            records.append(record | _stretch(sums, of, total_E))
    return with_notes(pa.Table.from_pylist(records, schema=_DRIFT), [tokens.note()])


def _stretches(sums: RollupArrays, batches: int) -> np.ndarray:
    """(P,) stretch of each prompt, by where the middle of its tokens lies; one without a prompt has no number."""
    middle = np.cumsum(sums.tokens) - sums.tokens / 2
    found = np.minimum((middle * batches / max(sums.tokens.sum(), 1)).astype(np.int64), batches - 1)
    return np.unique(found, return_inverse=True)[1]


def _stretch(sums: RollupArrays, of: np.ndarray, total_E: np.ndarray) -> dict[str, Any]:
    count_E = sums.count[of].sum(0)
    balance = load_imbalance(count_E)
    share_E = count_E / max(count_E.sum(), 1)
    return {
        "first": int(sums.prompt_index[of][0]),
        "prompts": int(of.sum()),
        "tokens": int(sums.tokens[of].sum()),
        **{name: balance[name] for name in (*_MEASURES, "dead")},
        "near_dead": int((share_E * sums.num_experts < NEAR_DEAD).sum()),
        "moved": float(np.abs(share_E - total_E / total_E.sum()).sum() / 2),
    }


@view("load-influence")
def load_influence(
    trace: TraceRows, *, layer: int | None = None, stream: str = "decoder", tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """Whether one prompt causes a layer's imbalance: busiest expert over the mean, leaving out one prompt at a time.

    Returns:
        layer, stream, max_over_mean (busiest expert over the mean), busiest (that expert), prompt_id (the prompt
        without which it changes most), without (max_over_mean without it), change = without − max_over_mean, low, high
        (the smallest and largest max_over_mean without any one prompt), prompt_share (of the busiest expert's uses that
        are this prompt's), prompts. Null below two prompts.
    """
    ids = trace.prompts()["prompt_id"]
    records: list[dict[str, Any]] = []
    for spec in trace.select_routers(layer, stream):
        sums = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        count_PE = sums.count
        total_E = count_PE.sum(0)
        if not total_E.any():
            continue
        whole, busiest = load_imbalance(total_E)["max_over_mean"], int(total_E.argmax())
        record = {"layer": spec.layer, "stream": spec.stream, "max_over_mean": whole, "busiest": busiest}
        record["prompts"] = len(count_PE)
        if len(count_PE) > 1:
            without_P = _without_each(count_PE, total_E)
            at = int(np.abs(without_P - whole).argmax())
            record |= {"prompt_id": ids[int(sums.prompt_index[at])].as_py(), "without": without_P[at]}
            record |= {"change": without_P[at] - whole, "low": without_P.min(), "high": without_P.max()}
            record["prompt_share"] = count_PE[at, busiest] / total_E[busiest]
        records.append(record)
    return with_notes(pa.Table.from_pylist(records, schema=_INFLUENCE), [tokens.note()])


def _without_each(count_PE: np.ndarray, total_E: np.ndarray) -> np.ndarray:
    """(P,) max_over_mean of all prompts but one."""
    step = max(1, (1 << 22) // count_PE.shape[1])
    pieces = [
        load_imbalance(total_E - count_PE[start : start + step])["max_over_mean"]
        for start in range(0, len(count_PE), step)
    ]
    return np.concatenate(pieces)
