"""How long consecutive tokens keep an expert, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.consistency.half_life import expert_survival, half_life, half_life_chance
from ....kernels.counting import count_experts
from ....kernels.statistics.bootstrap import interval_of_enough
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..options import DECODER, INTERVALS, Intervals, Routers
from ..registry import view

RESAMPLES = 1000

_SCHEMA = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("half_life", pa.float64()), ("low", pa.float64())],
        *[
            ("high", pa.float64()),
            ("chance", pa.float64()),
            ("kept", pa.float64()),
            ("kept_chance", pa.float64()),
        ],
        *[("uses", pa.int64()), ("prompts", pa.int64()), ("experts", pa.int32()), ("top_k", pa.int32())],
    ]
)


@view("expert-half-life", needs=("events",))
def expert_half_life(
    trace: TraceRows,
    *,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    horizon: int = 32,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """For how many consecutive tokens an expert stays chosen, beside chance.

    Args:
        horizon: the longest distance looked at, in tokens.
    Returns:
        layer, stream, half_life (tokens after which half of the uses of experts have ended; null where more than half
        last beyond the horizon), low, high (95 % bootstrap over prompts), chance (half-life of independent tokens with
        this layer's shares of experts), kept (share of uses that the next token repeats), kept_chance, uses, prompts,
        experts, top_k; see docs/methods/consistency.md.
    """
    rows = []
    for spec in routers.specs(trace):
        survived_PD, at_risk_PD, count_E, passed = _sums(trace, spec, tokens, horizon)
        if passed:
            rows.append(
                _row(
                    spec,
                    survived_PD,
                    at_risk_PD,
                    count_E / passed,
                    horizon,
                    (intervals.resamples, intervals.seed),
                )
            )
    ours = "The half-life is our choice of measure. Tokens left out by a filter end a sequence."
    return with_notes(
        pa.Table.from_pylist(rows, schema=_SCHEMA), [ours, intervals.note("prompts"), tokens.note()]
    )


def _sums(
    trace: TraceRows, spec: RouterSpec, tokens: TokenFilter, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Survivors and uses at risk of each prompt (P, D), uses of each expert (E,), and tokens."""

    def of_part(batch: EventBatch) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, int]:
        ids = batch.padded()
        survived, at_risk = [], []
        ends = np.flatnonzero(np.r_[np.diff(batch.prompt_N) != 0, True]) + 1 if len(ids) else []
        start = 0
        for end in ends:
            # A gap in the positions (a token that the filter leaves out) ends a sequence.
            cuts = np.flatnonzero(np.diff(batch.position_N[start:end]) != 1) + 1
            lengths = np.diff(np.r_[0, cuts, end - start])
            found = expert_survival(ids[start:end], spec.num_experts, lengths, horizon)
            survived.append(found.survived)
            at_risk.append(found.at_risk)
            start = int(end)
        return survived, at_risk, count_experts(ids, spec.num_experts), len(ids)

    survived, at_risk, count_E, passed = [], [], np.zeros(spec.num_experts, np.int64), 0
    for part in map_router(trace, of_part, spec.layer, spec.stream, tokens=tokens):
        survived += part[0]
        at_risk += part[1]
        count_E += part[2]
        passed += part[3]
    empty = np.zeros((0, horizon + 1), np.int64)
    return np.array(survived or empty), np.array(at_risk or empty), count_E, passed


def _row(
    spec: RouterSpec,
    survived_PD: np.ndarray,
    at_risk_PD: np.ndarray,
    share_E: np.ndarray,
    horizon: int,
    draws: tuple[int, int],
) -> dict[str, Any]:
    def of(prompts: np.ndarray) -> float:
        return half_life(survived_PD[prompts].sum(0), at_risk_PD[prompts].sum(0))

    with np.errstate(invalid="ignore"):  # some resamples never fall to one half: their half-life is infinite
        found = interval_of_enough(survived_PD, of, resamples=draws[0], seed=draws[1])
    chance, kept_chance = half_life_chance(share_E, horizon)
    survived_D, at_risk_D = survived_PD.sum(0), at_risk_PD.sum(0)
    values = {"half_life": found.point, "low": found.low, "high": found.high, "chance": chance}
    return {
        "layer": spec.layer,
        "stream": spec.stream,
        **{name: float(value) if np.isfinite(value) else None for name, value in values.items()},
        "kept": float(survived_D[1] / at_risk_D[1]) if at_risk_D[1] else None,
        "kept_chance": kept_chance,
        "uses": int(at_risk_D[0]),
        "prompts": len(survived_PD),
        "experts": spec.num_experts,
        "top_k": spec.top_k,
    }
