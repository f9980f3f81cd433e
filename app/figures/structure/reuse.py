"""Whose experts a layer uses: layers upwards, owners across."""

from __future__ import annotations

import altair as alt
import pandas as pd
import pyarrow as pa

from ..look import Width, finish
from ..theme import LIGHT, Theme


def reuse_map(table: pa.Table, *, theme: Theme = LIGHT, width: Width = "container") -> alt.LayerChart:
    """One cell for each layer and owner, with its part of the layer's choices.

    Args:
        table: the view `reuse`.
    """
    rows = table.to_pylist()
    data = pd.DataFrame(rows, columns=pd.Index(table.column_names))
    layers = sorted({row[name] for row in rows for name in ("layer", "owner")})
    base = alt.Chart(data).encode(
        x=alt.X("owner:O", title="layer that owns the expert", axis=alt.Axis(labelAngle=0, format="d")),
        y=alt.Y(
            "layer:O", sort=layers[::-1], title="layer that chooses", axis=alt.Axis(format="d")
        ),
        tooltip=[
            alt.Tooltip("layer:O"), alt.Tooltip("owner:O"),
            alt.Tooltip("use:Q", title="part of its choices", format=".1%"),
            alt.Tooltip("even:Q", title="even routing", format=".1%"), alt.Tooltip("count:Q", format=",d"),
            alt.Tooltip("experts:Q", title="experts to choose from"),
        ],
    )  # fmt: skip
    cells = base.mark_rect().encode(
        color=alt.Color(
            "use:Q", title="part of the layer's choices", scale=alt.Scale(range=list(theme.sequential), domainMin=0),
            legend=alt.Legend(orient="top", gradientLength=180, gradientThickness=8, format=".0%"),
        )
    )  # fmt: skip
    marks: list[alt.Chart] = [cells]
    if len(rows) <= 200:
        middle = max(row["use"] for row in rows) / 2
        ink = alt.condition(f"datum.use > {middle}", alt.value(theme.background), alt.value(theme.text))
        marks.append(base.mark_text(fontSize=11).encode(text=alt.Text("use:Q", format=".0%"), color=ink))
    return finish(
        alt.LayerChart(layer=marks), theme, width=width, height=min(max(len(layers) * 46, 140), 640)
    )
