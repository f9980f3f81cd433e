"""Efficiency leverage against the share of active experts: a law, its worked points shaded, and models as points."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa

from ...kernels.scaling import NEAR_ACTIVATION, efficiency_leverage
from ..text import words
from .look import Width, finish
from .theme import LIGHT, Theme

LEAST = 0.005
WORKED_GRANULARITY = 12.0
TITLE = "share of experts that a token activates (log)"


def leverage_points(
    table: pa.Table,
    *,
    compute: float,
    chosen: str | None = None,
    theme: Theme = LIGHT,
    width: Width = "container",
    height: int = 260,
) -> alt.LayerChart:
    """The law at one compute, and a point with its name a model.

    Args:
        table: model, activation, granularity of the view `model-card`.
        compute: training FLOPs for all of them.
        chosen: the model whose point is in the page's colour.
    """
    rows = [
        row | {"leverage": efficiency_leverage(row["activation"], row["granularity"], compute)}
        for row in table.to_pylist()
    ]
    columns = ("model", "activation", "granularity", "leverage")
    data = pd.DataFrame({name: [row[name] for row in rows] for name in columns}).drop_duplicates()
    data["color"] = [theme.primary if model == chosen else theme.mark for model in data["model"]]
    data["name"] = [str(model).rstrip("/").rpartition("/")[2] for model in data["model"]]
    grid = np.geomspace(LEAST, 1, 80)
    law = pd.DataFrame({"activation": grid})
    law["leverage"] = [efficiency_leverage(float(a), WORKED_GRANULARITY, compute) for a in grid]
    least = min([LEAST, *data["activation"]])
    x = alt.X("activation:Q", title=TITLE, scale=alt.Scale(type="log", domain=[least, 1], nice=False),
              axis=alt.Axis(format="~%", grid=False))  # fmt: skip
    y = alt.Y("leverage:Q", title=f"leverage at {words.power(compute)} FLOPs")
    shaded = alt.Chart(pd.DataFrame({"from": [max(LEAST, NEAR_ACTIVATION[0])], "to": [NEAR_ACTIVATION[1]]}))
    band = shaded.mark_rect(color=theme.mark, opacity=0.12).encode(
        x=alt.X("from:Q", title=TITLE), x2=alt.X2("to:Q")
    )
    line = alt.Chart(law).mark_line(color=theme.muted, strokeDash=[4, 3]).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("model:N"), alt.Tooltip("activation:Q", format=".1%"), alt.Tooltip("granularity:Q", format=".3g"),
        alt.Tooltip("leverage:Q", format=".2f"),
    ]  # fmt: skip
    points = (
        alt.Chart(data)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(x=x, y=y, color=alt.Color("color:N", scale=None), tooltip=tooltip)
    )
    names = (
        alt.Chart(data)
        .mark_text(align="right", baseline="top", dx=-7, dy=3, color=theme.text)
        .encode(x=x, y=y, text=alt.Text("name:N"))
    )
    return finish(alt.LayerChart(layer=[band, line, points, names]), theme, width=width, height=height)
