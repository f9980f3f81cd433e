"""A picture at the width of a column: nothing beside it, nothing cut off.

Legends that stood at the side go above or below a narrow picture, in as many columns as fit; titles of axes are broken
into lines; then the plots are made as wide as the whole picture allows, which is measured by drawing it.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from ..render_process import renderer
from .parts import (
    COLOUR_CHANNELS,
    CONCATENATED,
    LEGEND_CHANNELS,
    Spec,
    categories,
    definitions,
    is_category,
    mark_type,
    plots,
    text_width,
    units,
)

AXIS = 46.0
"""About what numbers and title of a vertical axis take, in points."""
SYMBOL = 26.0
"""What an entry of a legend takes beside its text."""
MANY_ENTRIES = 12
"""A legend of more entries goes beneath the picture."""
SMALL_HEIGHT = 96.0
"""Points, of a plot among several."""
COLUMN_HEIGHT = 64.0
"""Points, of a plot where all stand one beneath another."""
NARROWEST_PLOT = 32.0
NARROW_PLOT = 56.0
"""Points below which a row of plots holds one plot less."""
SMALL_PLOT = 115.0
"""Points that a plot among several takes at least, with its axis."""
ROUNDS = 4
CLOSE_ENOUGH = 0.6


def set_width(spec: Spec, points: float) -> None:
    """Give the whole picture this width; of several plots fewer stand side by side where they would be too narrow."""
    across = _reflow(spec, points)
    while _fit(spec, points, across) < NARROW_PLOT and across > 1 and "concat" in spec:
        across = _columns(spec, across - 1)


def _fit(spec: Spec, points: float, across: int) -> float:
    """Make the plots as wide as the picture allows; the width of the narrowest."""
    parts = list(plots(spec))
    for plot in parts:
        plot.pop("autosize", None)
        plot["width"] = round(points * 0.8 / across, 1)
        if isinstance(plot.get("height"), (int, float)):
            if across > 1:
                plot["height"] = round(max(plot["width"] * 0.8, min(plot["height"], SMALL_HEIGHT)))
            elif "concat" in spec:
                plot["height"] = min(plot["height"], COLUMN_HEIGHT)
    spec["autosize"] = {"type": "pad"}
    for _ in range(ROUNDS):
        left = points - drawn_width(spec)
        if abs(left) < CLOSE_ENOUGH:
            break
        for plot in parts:
            plot["width"] = round(max(NARROWEST_PLOT, plot["width"] + left / across), 1)
    return min(plot["width"] for plot in parts)


def drawn_width(spec: Spec) -> float:
    """Width of a picture in points, as drawn."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ', renderer.draw("svg", spec).decode())
    assert found
    return float(found[1])


def _reflow(spec: Spec, points: float) -> int:
    """How many plots stand side by side; no more than there is room for."""
    if "hconcat" in spec:
        return len(spec["hconcat"])
    if "vconcat" in spec:
        return max(_reflow(part, points) for part in spec["vconcat"])
    if "concat" not in spec:
        return 1
    columns = spec.get("columns", len(spec["concat"]))
    fitting = max(1, min(columns, int(points // SMALL_PLOT)))
    return _columns(spec, fitting) if fitting < columns else columns


def _columns(spec: Spec, columns: int) -> int:
    """Place so many plots side by side."""
    _title_first_of_rows(spec["concat"], columns)
    spec["columns"] = columns
    if columns == 1:
        spec["spacing"] = 8
    return columns


def _title_first_of_rows(parts: list[Spec], columns: int) -> None:
    """The vertical axis is named once a row, as in the first plot."""
    titles = [encoding["y"].get("title") for _, encoding, _ in units(parts[0]) if "y" in encoding]
    for number, part in enumerate(parts):
        for _, encoding, _ in units(part):
            if "y" in encoding:
                encoding["y"]["title"] = titles[0] if titles and number % columns == 0 else None


def arrange(spec: Spec, points: float, size: float, *, narrow: bool) -> None:
    """Place the legends and break the titles.

    Args:
        points: width of the picture.
        size: of the type, in points.
        narrow: whether no legend can stand at the side.
    """
    across = max((len(spec[key]) for key in CONCATENATED if key in spec), default=1)
    for plot in plots(spec):
        _give_key(plot, spec)
        for _, encoding, data in units(plot, data=spec.get("data")):
            for _, definition in definitions(encoding, LEGEND_CHANNELS):
                _place_legend(spec, definition, data, points, size, narrow=narrow)
            _break_titles(encoding, points, float(plot.get("height") or 200), size, alone=across == 1)


def _give_key(plot: Spec, spec: Spec) -> None:
    """A legend for colours whose key is another figure of the page: in print a figure stands alone."""
    found = list(units(plot, data=spec.get("data")))
    coloured = [
        (unit, encoding, definition)
        for unit, encoding, _ in found
        for _, definition in definitions(encoding, COLOUR_CHANNELS)
        if is_category(definition)
    ]
    for field in {definition["field"] for *_, definition in coloured}:
        mine = [one for one in coloured if one[2]["field"] == field]
        told = any(
            definition.get("legend", {}) is not None
            or mark_type(unit) == "text"
            or _on_an_axis(encoding, field)
            for unit, encoding, definition in mine
        )
        for _, _, definition in [] if told else mine:
            definition["legend"] = {"title": None, "orient": "bottom", "symbolOpacity": 1}


def _on_an_axis(encoding: Spec, field: str) -> bool:
    return any(encoding.get(axis, {}).get("field") == field for axis in ("x", "y"))


def _place_legend(
    spec: Spec, definition: Spec, data: Any, points: float, size: float, *, narrow: bool
) -> None:
    if definition.get("legend", {}) is None or definition.get("scale", {}) is None:
        return
    legend = definition.get("legend") or {}
    aside = legend.get("orient", "right") in ("left", "right")
    if aside and not narrow:
        return
    room = points - AXIS
    if is_category(definition):
        names = [str(value) for value in legend.get("values") or categories(spec, definition, data)]
        widest = max((text_width(name, size) for name in names), default=0.0)
        fitting = max(1, int(room // (min(widest, legend.get("labelLimit", 160)) + SYMBOL)))
        legend["columns"] = min(fitting, max(1, len(names)))
        if aside:
            legend["orient"] = "bottom" if len(names) > MANY_ENTRIES else "top"
    else:
        legend |= {"direction": "horizontal"} | ({"orient": "top"} if aside else {})
        legend["gradientLength"] = round(min(legend.get("gradientLength", 120), room * 0.45))
        legend["tickCount"] = 3 if narrow else 5
    title = legend.get("title", definition.get("title"))
    if isinstance(title, str):
        legend["title"] = _lines(title, room, size + 1)
    legend["titleLimit"] = round(points)
    definition["legend"] = legend


def _break_titles(encoding: Spec, points: float, height: float, size: float, *, alone: bool) -> None:
    for name, room in (("x", points - AXIS if alone else SMALL_PLOT), ("y", height)):
        channel = encoding.get(name)
        for holder in (channel, channel.get("axis")) if isinstance(channel, dict) else ():
            if isinstance(holder, dict) and isinstance(holder.get("title"), str):
                holder["title"] = _lines(holder["title"], room * 0.95, size + 1)


def _lines(text: str, room: float, size: float) -> str | list[str]:
    """The text, or its lines where it is wider than the room."""
    wide = text_width(text, size)
    if wide <= room:
        return text
    return textwrap.wrap(text, max(8, int(len(text) * room / wide)))
