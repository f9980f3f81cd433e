"""Pairs of experts as a matrix: lift on a scale around 1, the value of experts that are independent."""

from __future__ import annotations

import math
from collections import Counter

import altair as alt
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..theme import LIGHT, Theme

MOST = 64
"""Experts on a side; of more, the most used ones are drawn."""
HEIGHT = 420
LARGEST = 3.0
"""Doublings of lift at which the colour ends."""


def pair_map(
    table: pa.Table,
    a: str,
    b: str,
    *,
    label_a: str,
    label_b: str,
    layers: tuple[int, int] | None = None,
    theme: Theme = LIGHT,
    width: Width = "container",
) -> alt.LayerChart:
    """A cell for each pair.

    Args:
        table: columns `a` and `b` (experts), tokens, lift; of a symmetric matrix each pair once.
        label_a, label_b: what stands at the axes, across and upwards.
        layers: of the experts across and upwards, by which a page knows a chosen expert's row and column.
    """
    rows = table.to_pylist()
    across, upwards = _most_used(rows, a), _most_used(rows, b)
    if label_a == label_b:
        both = across | upwards
        rows += [{**row, a: row[b], b: row[a]} for row in rows]
        across = upwards = both
    shown = [
        {"across": row[a], "upwards": row[b], "tokens": row["tokens"], "lift": row["lift"]}
        | {"doublings": _log(row["lift"])}
        for row in rows
        if row[a] in across and row[b] in upwards
    ]
    data = pd.DataFrame(shown, columns=pd.Index(["across", "upwards", "tokens", "lift", "doublings"]))
    if layers:
        data["layer_across"], data["layer_upwards"] = layers
    labels = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    cells = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X("across:O", title=label_a, axis=labels),
            y=alt.Y("upwards:O", title=label_b, sort="descending", axis=labels),
            color=alt.Color(
                "doublings:Q",
                title="lift",
                scale=alt.Scale(range=list(theme.diverging), domain=[-LARGEST, LARGEST], clamp=True),
                legend=alt.Legend(
                    orient="top", gradientLength=180, gradientThickness=8, values=[-3, -1, 0, 1, 3],
                    labelExpr="datum.value < 0 ? '1/' + pow(2, -datum.value) : pow(2, datum.value)",
                ),
            ),
            tooltip=[
                alt.Tooltip("across:Q", title=label_a),
                alt.Tooltip("upwards:Q", title=label_b),
                alt.Tooltip("tokens:Q", title="tokens", format=",d"),
                alt.Tooltip("lift:Q", title="lift", format=".2f"),
            ],
        )
    )  # fmt: skip
    return finish(alt.LayerChart(layer=[cells]), theme, width=width, height=HEIGHT)


def _log(lift: float) -> float:
    """Doublings against 1, at most LARGEST either way; a pair that never meets is at the lower end."""
    return max(-LARGEST, min(LARGEST, math.log2(lift))) if lift > 0 else -LARGEST


def _most_used(rows: list[dict], column: str) -> set[int]:
    uses: Counter[int] = Counter()
    for row in rows:
        uses[row[column]] += row["tokens"]
    return {expert for expert, _ in uses.most_common(MOST)}
