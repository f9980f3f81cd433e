"""Use of the experts along an axis that is no text: step, noise level, age, day, frame, position."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ....kernels.counting import count_experts
from ....kernels.statistics.bootstrap import interval_of_enough
from ...notes import with_notes
from ...read.arrays import sum_rows
from ...read.batches import EventBatch
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..chance import even_share
from ..options import FEWER_INTERVALS, Intervals
from ..registry import view
from ._axis import Axis, axis_of

MOST_UNITS = 200_000
"""Pairs of prompt and place up to which intervals are made."""
_COLUMNS = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("axis", pa.string()), ("x", pa.string())],
        *[("at", pa.float64()), ("expert", pa.int32()), ("share", pa.float64()), ("low", pa.float64())],
        *[("high", pa.float64()), ("chance", pa.float64()), ("use", pa.float64()), ("weight", pa.float64())],
        *[("tokens", pa.int64()), ("prompts", pa.int64())],
    ]
)


class _Sums(NamedTuple):
    """Over the X places of an axis, at one router."""

    tokens_X: np.ndarray
    count_XE: np.ndarray
    weight_XE: np.ndarray | None


class _Units(NamedTuple):
    """One row for each prompt and place that has tokens: U rows, M chosen experts."""

    x_U: np.ndarray
    tokens_U: np.ndarray
    count_UM: np.ndarray


@view("timeline", needs=("token_numbers",))
def timeline(
    trace: TraceRows,
    *,
    by: str = "position",
    layer: int | None = None,
    stream: str = "decoder",
    top: int = 8,
    bins: int = 64,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = FEWER_INTERVALS,
) -> pa.Table:
    """How the use of the experts changes along an axis: step, noise level, age, day, frame.

    Args:
        by: position (of a token in its prompt), a column of the prompts or a tag. Numbers and dates stand in their own
            order, other values in that in which they come in the trace.
        top: experts of a layer that have rows of their own, those used most over all; the rest together have
            expert null.
        bins: places of the axis at most; numbers and positions beyond are put together in equal widths.
    Returns:
        layer, stream, axis (position, number, date or order), x (the value, or from–to), at (its number, days since
        1970 for a date), expert, share (of the tokens there that choose it; those of a layer sum to k), low, high (95 %
        bootstrap over prompts; null below 5 prompts), chance = k / E, use (part of all choices there), weight (mean
        gate weight over the tokens there, 0 where not chosen; null where unknown), tokens, prompts.
    """
    axis = axis_of(trace, by, bins)
    rows: list[dict[str, Any]] = []
    notes: list[str | None] = [tokens.note()]
    for spec in trace.select_routers(layer, stream):
        sums = _sums(trace, spec, axis, tokens)
        if not sums.tokens_X.any():
            continue
        chosen_M = np.argsort(-sums.count_XE.sum(0), kind="stable")[:top]
        units = _units(trace, spec, axis, tokens, chosen_M)
        known = len(units.x_U) <= MOST_UNITS
        if not known:
            notes.append("Without intervals: there are too many prompts and places.")
        rows += _rows(
            spec, axis, sums, units, chosen_M, (intervals.resamples, intervals.seed) if known else None
        )
    if axis.group_P is None and not trace.num_events:
        notes = [
            "No positions: the trace holds counts only, and no single events. Choose a tag of its prompts."
        ]
    return with_notes(pa.Table.from_pylist(rows, schema=_COLUMNS), list(dict.fromkeys(filter(None, notes))))


def _sums(trace: TraceRows, spec: RouterSpec, axis: Axis, tokens: TokenFilter) -> _Sums:
    places, experts = len(axis.names), spec.num_experts
    if axis.group_P is not None:
        found = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        x_P = axis.group_P[found.prompt_index]
        weights = found.weight_sum
        return _Sums(
            sum_rows(found.tokens, x_P, places, np.int64),
            sum_rows(found.count, x_P, places, np.int64),
            None if weights is None else sum_rows(weights, x_P, places, np.float64),
        )
    weighted = "weights" in trace.manifest.capture
    tokens_X, count_XE = np.zeros(places, np.int64), np.zeros((places, experts), np.int64)
    weight_XE = np.zeros((places, experts))
    for batch in trace.iter_router(
        spec.layer, spec.stream, columns=("experts", *(["weights"] if weighted else [])), tokens=tokens
    ):
        x_N = batch.position_N // axis.width
        tokens_X += np.bincount(x_N, minlength=places)
        ids_S, x_S = _slots(batch, x_N)
        count_XE += count_experts(ids_S, experts, x_S, places).astype(np.int64)
        if weighted:
            weight_XE += count_experts(ids_S, experts, x_S, places, batch.weights.reshape(-1, 1))
    return _Sums(tokens_X, count_XE, weight_XE if weighted else None)


def _slots(batch: EventBatch, of_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each chosen expert (S, 1), and what belongs to its token (S,)."""
    many = np.diff(batch.offsets) if batch.offsets is not None else batch.experts.shape[1]
    return batch.experts.reshape(-1, 1).astype(np.int64), np.repeat(of_N, many)


def _units(
    trace: TraceRows, spec: RouterSpec, axis: Axis, tokens: TokenFilter, chosen_M: np.ndarray
) -> _Units:
    if axis.group_P is not None:
        found = trace.rollup_arrays(spec.layer, spec.stream, tokens=tokens)
        x_P = axis.group_P[found.prompt_index]
        there = x_P >= 0
        return _Units(x_P[there], found.tokens[there], found.count[there][:, chosen_M])
    column_E = np.full(spec.num_experts, -1)
    column_E[chosen_M] = np.arange(len(chosen_M))
    pieces: list[_Units] = []
    for batch in trace.iter_router(spec.layer, spec.stream, tokens=tokens):
        # A prompt lies whole in one batch, so no unit is split between two.
        key_N = batch.prompt_index * len(axis.names) + batch.position_N // axis.width
        key_U, unit_N = np.unique(key_N, return_inverse=True)
        ids_S, unit_S = _slots(batch, unit_N)
        column_S = column_E[ids_S[:, 0]]
        at_S = (unit_S * len(chosen_M) + column_S)[column_S >= 0]
        count = np.bincount(at_S, minlength=len(key_U) * len(chosen_M)).reshape(len(key_U), -1)
        pieces.append(_Units(key_U % len(axis.names), np.bincount(unit_N, minlength=len(key_U)), count))
    return _Units(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _rows(
    spec: RouterSpec,
    axis: Axis,
    sums: _Sums,
    units: _Units,
    chosen_M: np.ndarray,
    draws: tuple[int, int] | None,
) -> list[dict[str, Any]]:
    # (E,) bool: all experts that have no line of their own; they are told together, as one row without an expert.
    rest_E = np.ones(spec.num_experts, bool)
    rest_E[chosen_M] = False
    chance = even_share(spec, int(sums.count_XE.sum()), int(sums.tokens_X.sum()))
    rows: list[dict[str, Any]] = []
    for x in np.flatnonzero(sums.tokens_X):
        of = units.x_U == x
        tokens, count_E = int(sums.tokens_X[x]), sums.count_XE[x]
        weight_E = None if sums.weight_XE is None else sums.weight_XE[x]
        shared: dict[str, Any] = {
            "layer": spec.layer,
            "stream": spec.stream,
            "axis": axis.kind,
            "x": axis.names[x],
        }
        shared |= {"at": float(axis.at[x]), "tokens": tokens, "prompts": int(of.sum())}
        ends = _ends(units.count_UM[of], units.tokens_U[of], draws)
        groups: list[tuple[int | None, Any]] = [(int(expert), expert) for expert in chosen_M]
        if rest_E.any():
            groups.append((None, rest_E))
        for number, (expert, which) in enumerate(groups):
            count = int(count_E[which].sum())
            rows.append(
                shared
                | {"expert": expert, "share": count / tokens, "use": count / max(int(count_E.sum()), 1)}
                | {"weight": None if weight_E is None else float(weight_E[which].sum()) / tokens}
                | ({"chance": chance, **ends[number]} if expert is not None else {})
            )
    return rows


def _ends(
    count_NM: np.ndarray, tokens_N: np.ndarray, draws: tuple[int, int] | None
) -> list[dict[str, float | None]]:
    """The interval of the share of each chosen expert, over prompts."""
    if draws is None:
        return [{}] * count_NM.shape[1]
    found = interval_of_enough(
        count_NM / tokens_N[:, None], weights=tokens_N, resamples=draws[0], seed=draws[1]
    )
    pairs = zip(np.atleast_1d(found.low), np.atleast_1d(found.high), strict=True)
    return [{name: float(v) if np.isfinite(v) else None for name, v in zip(("low", "high"), pair, strict=True)}
            for pair in pairs]  # fmt: skip
