"""Hit rate of an expert cache against its size, policies beside one another."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..theme import LIGHT, Theme
from .over_layers import line_color

POLICIES = {
    "belady": "Belady (knows the future)",
    "segment": "SCH (sees some tokens ahead)",
    "lfu": "LFU",
    "lru": "LRU",
    "fixed": "fixed: the most used experts",
}


def cache_curves(
    table: pa.Table, *, top_k: int | None = None, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """Hit rates, with rules where the cache holds k and twice k experts.

    Args:
        table: policy, size, hit_rate, low, high (null where unknown), accesses; see `pooled`.
        top_k: experts of a token; None draws no rules.
    """
    data = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    policies = table["policy"].to_pylist()
    there = [policy for policy in POLICIES if policy in set(policies)]
    data["name"] = [POLICIES[policy] for policy in policies]
    names = [POLICIES[policy] for policy in there]
    order = list(POLICIES)
    colors = [theme.muted if p == "fixed" else line_color(order.index(p), theme) for p in there]
    color = alt.Color(
        "name:N", scale=alt.Scale(domain=names, range=colors), sort=names,
        legend=alt.Legend(
            title=None, orient="right", labelLimit=220, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2.5
        ),
    )  # fmt: skip
    base = alt.Chart(data).encode(
        x=alt.X(
            "size:Q",
            title="experts that a layer's cache holds",
            axis=alt.Axis(format="d", grid=False, tickMinStep=1),
            scale=alt.Scale(nice=False),
        )
    )
    title = "accesses that hit"
    y = alt.Y("hit_rate:Q", title=title, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    band = base.mark_area(opacity=0.16).encode(
        y=alt.Y("low:Q", title=title), y2=alt.Y2("high:Q"), color=color
    )
    dashes = alt.condition("datum.policy == 'fixed'", alt.value([4, 4]), alt.value([1, 0]))
    line = base.mark_line(strokeWidth=1.8).encode(y=y, color=color, strokeDash=dashes)
    points = base.mark_point(filled=True, size=30, opacity=0).encode(
        y=y,
        color=color,
        tooltip=[
            alt.Tooltip("name:N", title="policy"),
            alt.Tooltip("size:Q", title="experts held"),
            alt.Tooltip("hit_rate:Q", title=title, format=".1%"),
            alt.Tooltip("accesses:Q", title="accesses", format=",d"),
        ],
    )
    layers = [band, line, points]
    if top_k:
        marked = {top_k: f"k = {top_k}", 2 * top_k: f"2 k = {2 * top_k}"}
        largest = max(table["size"].to_pylist(), default=0)
        rules = pd.DataFrame(
            [{"size": size, "text": text} for size, text in marked.items() if size <= largest]
        )
        mark = alt.Chart(rules).encode(x=alt.X("size:Q"))
        layers += [
            mark.mark_rule(color=theme.muted, strokeDash=[2, 3]),
            mark.mark_text(align="left", dx=4, dy=-4, color=theme.muted, fontSize=11).encode(
                y=alt.YValue(12), text=alt.Text("text:N")
            ),
        ]
    return finish(alt.LayerChart(layer=layers), theme, width=width, height=300)


def pooled(table: pa.Table) -> pa.Table:
    """Hits of all layers of the view `cache-hits` together, by policy and size; of one layer with its interval."""
    columns = ["policy", "size", "hit_rate", "low", "high", "hits", "accesses"]
    if len(set(table["layer"].to_pylist())) == 1:
        return table.select(columns)
    sums = table.group_by(["policy", "size"], use_threads=False).aggregate(
        [("hits", "sum"), ("accesses", "sum")]
    )
    hits, accesses = (np.asarray(sums[f"{name}_sum"]) for name in ("hits", "accesses"))
    unknown = pa.nulls(sums.num_rows, pa.float64())
    rates = pa.array(hits / np.maximum(accesses, 1), pa.float64())
    return pa.table([sums["policy"], sums["size"], rates, unknown, unknown, hits, accesses], names=columns)
