"""How much each expert is used."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.counting import load_imbalance
from ...read.arrays import sum_rows
from ...read.group_sums import GroupSums
from ...read.selection import Groups, group_column
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..registry import view

_TAKEN = {
    "layer", "stream", "expert", "tokens", "count", "share", "weight_sum", "probability_sum", "nan_tokens",
    "mean_probability", "value", "chance", "mean_weight",
}  # fmt: skip
"""Columns of `load`, and of what `load_difference` adds to it."""
_BALANCE = {
    "layer", "stream", "tokens", "experts", "max_over_mean", "cv", "gini", "entropy", "entropy_normalised", "dead",
}  # fmt: skip
_SUMS = ("tokens", "nan_tokens", "count", "weight_sum", "probability_sum")


def _sums_of_routers(
    trace: TraceRows,
    specs: Sequence[RouterSpec],
    by: str | None,
    tokens: TokenFilter,
) -> list[tuple[list[str | None], dict[str, np.ndarray | None]]]:
    """At each router, names of the groups that have tokens there, and their sums: tokens (G,), count (G, E), ..."""
    source = trace.sums_by(by, tokens.where)
    groups = source.groups(by)

    def key(spec: RouterSpec) -> tuple[Hashable, ...]:
        return "load", spec.layer, spec.stream, by, tokens.key

    def of(spec: RouterSpec) -> tuple[list[str | None], dict[str, np.ndarray | None]]:
        found = trace.memo.get(key(spec), lambda: _sums(source, spec.layer, spec.stream, tokens, groups))
        tokens_G = found[0]
        there = np.flatnonzero(tokens_G) if by is not None else np.arange(len(groups.names))
        sums = {
            name: None if values is None else values[there] for name, values in zip(_SUMS, found, strict=True)
        }
        return [groups.names[i] for i in there], sums

    missing = [spec for spec in specs if trace.memo.find(key(spec)) is None]
    for stream in dict.fromkeys(spec.stream for spec in missing):
        source.read_ahead([spec.layer for spec in missing if spec.stream == stream], stream, _SUMS[2:])
    return trace.in_threads(of, specs)


def _sums(
    source: TraceRows | GroupSums, layer: int, stream: str, tokens: TokenFilter, groups: Groups
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Over the groups: tokens (G,), tokens with NaN (G,), count, weight and probability sums (G, E)."""
    rows = source.rollups(layer, stream, sums=_SUMS[2:])
    group_R = np.where(tokens.rows(source, rows), groups.group_P[rows.prompt_R], -1)
    total = len(groups.names)
    return (
        sum_rows(rows.tokens_R, group_R, total, np.int64),
        sum_rows(rows.nan_tokens_R, group_R, total, np.int64),
        rows.grouped("count", group_R, total),
        rows.grouped("weight_sum", group_R, total),
        rows.grouped("probability_sum", group_R, total),
    )


def counts_table(
    trace: TraceRows,
    by: str | None,
    tokens: TokenFilter,
    layer: int | Sequence[int] | None,
    stream: str | None,
) -> pa.Table:
    """See `Trace.counts`."""
    kinds = {"layer": pa.int32(), "stream": pa.string()}
    shown = None if by is None else group_column(by, _TAKEN)
    if shown is not None:
        kinds[shown] = pa.string()
    kinds |= {"expert": pa.int32(), "tokens": pa.int64(), "count": pa.int64()}
    kinds |= {"weight_sum": pa.float64(), "probability_sum": pa.float64(), "nan_tokens": pa.int64()}
    pieces = []
    specs = trace.select_routers(layer, stream)
    found = _sums_of_routers(trace, specs, by, tokens)
    for spec, (names, sums) in zip(specs, found, strict=True):
        experts = spec.num_experts
        # One row for each (group, expert), experts fastest: G * E rows of sums (G, E).
        rows = len(names) * experts
        columns: dict[str, Any] = {
            "layer": np.full(rows, spec.layer, np.int32),
            "stream": pa.repeat(pa.scalar(spec.stream), rows),
            "expert": np.tile(np.arange(experts, dtype=np.int32), len(names)),
        }
        if shown is not None:
            columns[shown] = pa.array(names, pa.string()).take(
                pa.array(np.repeat(np.arange(len(names)), experts))
            )
        for name, values in sums.items():
            if values is None:
                columns[name] = pa.nulls(rows, pa.float64())
            else:
                columns[name] = np.repeat(values, experts) if values.ndim == 1 else values.reshape(-1)
        pieces.append(pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()}))
    return pa.concat_tables([pa.schema(list(kinds.items())).empty_table(), *pieces]).combine_chunks()


@view("load")
def load(
    trace: TraceRows,
    *,
    by: str | None = None,
    tokens: TokenFilter = ALL_TOKENS,
    layer: int | None = None,
    stream: str = "decoder",
) -> pa.Table:
    """How much each expert of each layer is used.

    Args:
        by: a column of the prompts (language, group, ...) or a tag: one set of rows for each of its values, in a
            column of its name, or `by:NAME` where the result has a column of that name already.
    Returns:
        layer, stream, [by], expert, tokens (that passed the router), count (of them that chose the expert),
        share = count / tokens (so the shares of a layer sum to k), weight_sum, mean_probability = mean of the
        full router probability over tokens without NaN. What the trace lacks is null.
    """
    table = counts_table(trace, by, tokens, layer, stream)
    total, count, nan = (np.asarray(table[name]) for name in ("tokens", "count", "nan_tokens"))
    share = np.divide(count, total, out=np.zeros(len(count)), where=total > 0)
    table = table.append_column("share", pa.array(share))
    if table["probability_sum"].null_count:
        mean = pa.nulls(table.num_rows, pa.float64())
    else:
        valid = total - nan
        summed = np.asarray(table["probability_sum"])
        mean = pa.array(np.divide(summed, valid, out=np.zeros(len(summed)), where=valid > 0))
    table = table.append_column("mean_probability", mean)
    shown = ["layer", "stream", *([group_column(by, _TAKEN)] if by is not None else []), "expert"]
    return table.select([*shown, "tokens", "count", "share", "weight_sum", "mean_probability"])


@view("load-balance")
def load_balance(
    trace: TraceRows,
    *,
    by: str | None = None,
    tokens: TokenFilter = ALL_TOKENS,
    layer: int | None = None,
    stream: str = "decoder",
) -> pa.Table:
    """How evenly the experts of each layer are used.

    Returns:
        layer, stream, [by], tokens, experts, max_over_mean, cv, gini, entropy (nats), entropy_normalised,
        dead (experts that no token chose); see docs/methods/counting.md.
    """
    records = []
    specs = trace.select_routers(layer, stream)
    found = _sums_of_routers(trace, specs, by, tokens)
    for spec, (names, sums) in zip(specs, found, strict=True):
        passed, counts = sums["tokens"], sums["count"]
        assert passed is not None
        assert counts is not None
        for i, name in enumerate(names):
            record: dict[str, Any] = {"layer": spec.layer, "stream": spec.stream}
            if by is not None:
                record[group_column(by, _BALANCE)] = name
            record |= {"tokens": int(passed[i]), "experts": spec.num_experts}
            records.append(record | load_imbalance(counts[i]))
    return pa.Table.from_pylist(records)
