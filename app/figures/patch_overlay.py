"""Experts over the patches of a picture: one cell a patch, in the colour of its first expert."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from .look import Width, finish
from .palette import expert_color
from .theme import LIGHT, Theme

SIDE = 340


def patch_overlay(
    pixels: Sequence[Sequence[str]] | None,
    grid: tuple[int, int],
    experts: Sequence[int],
    *,
    names: Sequence[str] = (),
    theme: Theme = LIGHT,
    width: Width | None = None,
) -> alt.LayerChart:
    """Draw the patches of one image.

    Args:
        pixels: colours of the picture (`text.picture.pixels_of`), row by row; None: patches alone.
        grid: rows and columns.
        experts: first expert of each patch, row by row; -1 for none.
        names: of the patches, for the card.
    """
    rows, columns = grid
    data = pd.DataFrame(
        {
            "x": [at % columns for at in range(rows * columns)],
            "y": [at // columns for at in range(rows * columns)],
            "expert": list(experts),
            "patch": list(names) or [f"{at // columns},{at % columns}" for at in range(rows * columns)],
            "color": [expert_color(expert, theme) if expert >= 0 else theme.missing for expert in experts],
        }
    )
    data["x2"], data["y2"] = data["x"] + 1, data["y"] + 1
    across = alt.Scale(domain=[0, columns], nice=False)
    down = alt.Scale(domain=[rows, 0], nice=False)
    place = {"x": alt.X("x:Q", scale=across, axis=None), "y": alt.Y("y:Q", scale=down, axis=None)}
    marks: list[alt.Chart] = []
    size = SIDE if width is None or width == "container" else int(width)
    tall = round(size * rows / columns)
    if pixels:
        marks.append(_picture(pixels, grid, across, down))
    cells = alt.Chart(data).mark_rect(
        fillOpacity=0.5 if pixels else 0.85, stroke=theme.background, strokeWidth=1
    )
    marks.append(
        cells.encode(
            **place, x2=alt.X2("x2:Q"), y2=alt.Y2("y2:Q"), fill=alt.Fill("color:N", scale=None),
            tooltip=[alt.Tooltip("patch:N"), alt.Tooltip("expert:Q", title="first expert")],
        )
    )  # fmt: skip
    if rows * columns <= 256:
        text = alt.Chart(data).mark_text(fontSize=12, fontWeight="bold")
        marks.append(
            text.transform_calculate(cx="datum.x + 0.5", cy="datum.y + 0.5").encode(
                x=alt.X("cx:Q", scale=across, axis=None), y=alt.Y("cy:Q", scale=down, axis=None),
                text=alt.Text("expert:Q"),
                color=alt.ColorValue("#ffffff" if pixels else theme.background),
            )
        )  # fmt: skip
    return finish(alt.LayerChart(layer=marks), theme, width=size, height=tall)


def _picture(
    pixels: Sequence[Sequence[str]], grid: tuple[int, int], across: alt.Scale, down: alt.Scale
) -> alt.Chart:
    """A rectangle for each pixel, in the coordinates of the patches."""
    high, wide = grid[0] / len(pixels), grid[1] / len(pixels[0])
    data = pd.DataFrame(
        [
            {"x": x * wide, "x2": (x + 1) * wide, "y": y * high, "y2": (y + 1) * high, "pixel": color}
            for y, row in enumerate(pixels)
            for x, color in enumerate(row)
        ]
    )
    return alt.Chart(data).mark_rect(tooltip=None).encode(
        x=alt.X("x:Q", scale=across, axis=None), x2=alt.X2("x2:Q"),
        y=alt.Y("y:Q", scale=down, axis=None), y2=alt.Y2("y2:Q"),
        fill=alt.Fill("pixel:N", scale=None),
    )  # fmt: skip
