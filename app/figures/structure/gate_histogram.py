"""How large an expert's gate weights are: a row for each value of a tag, weights across."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..theme import LIGHT, Theme

MOST_NUMBERS = 200


def gate_histogram(
    table: pa.Table, *, by: str, expert: int, theme: Theme = LIGHT, width: Width = "container"
) -> alt.LayerChart:
    """One cell for each value and bin, with its share of the value's tokens.

    Args:
        table: the view `gate-weights` by a tag.
        by: the column of the table that holds its values.
    """
    rows = [row | {"value": str(row[by])} for row in table.to_pylist()]
    values = list(dict.fromkeys(row["value"] for row in rows))
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X("low:Q", title=f"gate weight of expert {expert}", scale=alt.Scale(nice=False)),
        x2=alt.X2("high:Q"),
        y=alt.Y("value:O", sort=values, title=by),
        tooltip=[
            alt.Tooltip("value:N", title=by), alt.Tooltip("low:Q", title="weight from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"), alt.Tooltip("count:Q", title="tokens", format=",d"),
            alt.Tooltip("share:Q", title="of the value's tokens", format=".1%"),
        ],
    )  # fmt: skip
    color = alt.Color(
        "share:Q", title="share of the value's tokens",
        scale=alt.Scale(range=list(theme.sequential), domainMin=0),
        legend=alt.Legend(orient="top", gradientLength=180, gradientThickness=8, format=".0%"),
    )  # fmt: skip
    marks: list[alt.Chart] = [base.mark_rect(stroke=theme.background, strokeWidth=1).encode(color=color)]
    if 0 < len(rows) <= MOST_NUMBERS:
        middle = max(row["share"] for row in rows) / 2
        ink = alt.condition(f"datum.share > {middle}", alt.value(theme.background), alt.value(theme.text))
        text = base.transform_filter("datum.count > 0").transform_calculate(
            mid="(datum.low + datum.high) / 2"
        )
        marks.append(
            text.mark_text(fontSize=11).encode(
                x=alt.X("mid:Q"), x2=alt.Undefined, text=alt.Text("share:Q", format=".0%"), color=ink
            )
        )
    return finish(alt.LayerChart(layer=marks), theme, width=width, height=min(max(len(values) * 30, 60), 480))
