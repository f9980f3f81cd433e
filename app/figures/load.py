"""From the `load` view to what a routing map shows: one measure, or the difference of two selections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .routing_layout import routers_of
from .routing_map import Hover


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What the colour of a cell means."""

    name: str
    label: str
    """For legends and sentences."""
    format: str
    """d3 format of a value."""
    axis_format: str
    """d3 format of a round value, for legends."""
    explained: str


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            name="share", label="share of tokens", format=".1%", axis_format=".0%",
            explained="Tokens that choose the expert, of all tokens that pass the router. "
            "A layer's shares sum to k.",
        ),
        Measure(
            name="weight", label="mean gate weight", format=".3f", axis_format=".2f",
            explained="Gate weight that a token gives the expert, 0 where it is not chosen, "
            "averaged over all tokens.",
        ),
        Measure(
            name="probability", label="mean probability", format=".3f", axis_format=".2f",
            explained="The router's probability of the expert before selection, averaged over all tokens. "
            "A layer's probabilities sum to 1 under a softmax router.",
        ),
    )
}  # fmt: skip

_COLUMNS = {"stream", "layer", "expert", "tokens", "count", "share", "weight_sum", "mean_probability"}
"""Columns of the `load` view; another is what it was split by."""

HOVER = (
    Hover(column="share", title="share of tokens", format=".2%"),
    Hover(column="chance", title="even routing would give", format=".2%"),
    Hover(column="count", title="tokens that chose it", format=",d"),
    Hover(column="tokens", title="tokens in all", format=",d"),
    Hover(column="mean_weight", title="gate weight when chosen", format=".3f"),
    Hover(column="mean_probability", title="mean probability", format=".4f"),
)


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


def difference_hover(measure: str, name_a: str, name_b: str) -> tuple[Hover, ...]:
    """The hover card of a difference."""
    form = MEASURES[measure].format
    unit = ", percentage points" if measure == "share" else ""
    return (
        Hover(column="a", title=name_a, format=form),
        Hover(column="b", title=name_b, format=form),
        Hover(column="value", title=f"difference{unit}", format="+" + form),
        Hover(column="tokens_a", title=f"tokens, {name_a}", format=",d"),
        Hover(column="tokens_b", title=f"tokens, {name_b}", format=",d"),
    )


def moved(differences: pa.Table) -> pa.Table:
    """By layer, how much of the routing two selections do not share: half the sum of |difference|, over the
    layer's total in a (so 0: the same, 1: no expert in common). Columns layer, stream, value."""
    keys = list(dict.fromkeys(routers_of(differences)))
    index = np.array([keys.index(key) for key in routers_of(differences)], dtype=np.int64)
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
        [number.setdefault(key, len(number)) for key in zip(routers_of(load), *split, strict=True)], np.int64
    )
    sums, sizes = np.bincount(index, share, len(number)), np.bincount(index, minlength=len(number))
    return np.where(_floats(load, "tokens") > 0, (sums / np.maximum(sizes, 1))[index], np.nan)


def _keys(table: pa.Table) -> list[tuple[str, int, int]]:
    experts = table["expert"].to_pylist()
    return [(*router, expert) for router, expert in zip(routers_of(table), experts, strict=True)]


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
