"""The `load` view as one measure, and the difference of two selections of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa

from ...read.selection import Where
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view
from .load import load as load_view

Measure = Literal["share", "weight", "probability"]

_COLUMNS = {"stream", "layer", "expert", "tokens", "count", "share", "weight_sum", "mean_probability"}
"""Columns of the `load` view; another is what it was split by."""


@view("load-difference")
def load_difference(
    trace: TraceRows,
    *,
    where_a: Where | None = None,
    where_b: Where | None = None,
    measure: Measure = "share",
    layer: int | None = None,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """How much more one selection of prompts uses each expert than another does.

    Args:
        where_a, where_b: prompts of the two selections, e.g. language=ja and language=en; None for all.
        measure: share (of tokens), weight (mean gate weight a token) or probability (mean router probability).
    Returns:
        stream, layer, expert, value (a - b), a, b, tokens_a, tokens_b. Null where the measure is not recorded, or no
        token of a side passed the router.
    """

    def side(where: Where | None) -> pa.Table:
        both = {**(tokens.where or {}), **(where or {})}
        chosen = replace(tokens, where=both or None)
        return with_measure(load_view(trace, layer=layer, stream=stream, tokens=chosen), measure)

    return difference(side(where_a), side(where_b))


def with_measure(load: pa.Table, measure: str) -> pa.Table:
    """The `load` view with the columns value (of the measure), chance (even routing's share) and mean_weight.

    `chance` is the mean share of the layer's experts, which is k/E where every token uses k; where the view is split
    by a column, in each of its values. Null where no token passed the router.
    """
    share, count, tokens = (_floats(load, name) for name in ("share", "count", "tokens"))
    weight = _floats(load, "weight_sum")
    per_token = np.divide(weight, tokens, out=np.full_like(weight, np.nan), where=tokens > 0)
    value = {"share": share, "weight": per_token, "probability": _floats(load, "mean_probability")}[measure]
    when_chosen = np.divide(weight, count, out=np.full_like(weight, np.nan), where=count > 0)
    columns = {"value": value, "chance": _mean_share(load, share), "mean_weight": when_chosen}
    for name, column in columns.items():
        load = load.append_column(name, pa.array(column, from_pandas=True))
    return load


def difference(a: pa.Table, b: pa.Table) -> pa.Table:
    """value of a − value of b for every cell that both have; tables from `with_measure`.

    Null where no token of a side passed the router: that side has no share, not one of 0.

    Returns:
        stream, layer, expert, value (the difference), a, b, tokens_a, tokens_b.
    """
    of_b = {key: row for row, key in enumerate(_keys(b))}
    matched = [(row, of_b[key]) for row, key in enumerate(_keys(a)) if key in of_b]
    rows_a, rows_b = (pa.array([pair[side] for pair in matched], pa.int64()) for side in (0, 1))
    a, b = a.take(rows_a), b.take(rows_b)
    value_a, value_b = (
        np.where(_floats(side, "tokens") > 0, _floats(side, "value"), np.nan) for side in (a, b)
    )
    columns = {name: a[name] for name in ("stream", "layer", "expert")}
    values = {"value": value_a - value_b, "a": value_a, "b": value_b}
    columns |= {name: pa.array(value, from_pandas=True) for name, value in values.items()}
    return pa.table(columns | {"tokens_a": a["tokens"], "tokens_b": b["tokens"]})


def moved(differences: pa.Table) -> pa.Table:
    """By layer, how much of the routing two selections do not share: half the sum of |difference|, over the
    layer's total in a (so 0: the same, 1: no expert in common). Columns layer, stream, value."""
    keys = list(dict.fromkeys(_routers(differences)))
    index = np.array([keys.index(key) for key in _routers(differences)], dtype=np.int64)
    gap = np.nan_to_num(np.abs(_floats(differences, "value")))
    half = np.bincount(index, weights=gap, minlength=len(keys)) / 2
    total = np.bincount(index, weights=np.nan_to_num(_floats(differences, "a")), minlength=len(keys))
    value = np.divide(half, total, out=np.zeros_like(half), where=total > 0)
    return pa.table({"layer": [k[1] for k in keys], "stream": [k[0] for k in keys], "value": value})


def _mean_share(load: pa.Table, share: np.ndarray) -> np.ndarray:
    """(C,) the mean share over the cells of the same router and selection; NaN without tokens."""
    split = [load[name].to_pylist() for name in load.column_names if name not in _COLUMNS]
    number: dict[tuple, int] = {}
    index = np.array(
        [number.setdefault(key, len(number)) for key in zip(_routers(load), *split, strict=True)], np.int64
    )
    sums, sizes = np.bincount(index, share, len(number)), np.bincount(index, minlength=len(number))
    return np.where(_floats(load, "tokens") > 0, (sums / np.maximum(sizes, 1))[index], np.nan)


def _keys(table: pa.Table) -> list[tuple[str, int, int]]:
    experts = table["expert"].to_pylist()
    return [(*router, expert) for router, expert in zip(_routers(table), experts, strict=True)]


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)


def _routers(table: pa.Table) -> list[tuple[str, int]]:
    """(stream, layer) of each row."""
    return list(zip(table["stream"].to_pylist(), table["layer"].to_pylist(), strict=True))
