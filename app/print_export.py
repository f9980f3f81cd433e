"""Figures for print: PDF and SVG at the widths of a paper's columns, with type of at least 7 points.

In Vega's PDFs and SVGs one pixel is one point (1/72 inch), so widths and type sizes are given in points here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from .figures.theme import DARK, LIGHT, Theme
from .render_process import renderer

COLUMNS = {"single": 85.0, "1.5": 120.0, "double": 174.0}
"""Width in millimetres; those of most journals are within 5 mm of it."""
POINTS_PER_MM = 72 / 25.4
TYPE = 7.5
"""Points, of labels; titles get one more. Journals ask for 7 at least."""
GREYS = ("#ffffff", "#d9d9d9", "#b0b0b0", "#7a7a7a", "#444444", "#000000")
"""Magnitude without colour."""
GREY_DIVERGING = ("#000000", "#6b6b6b", "#c4c4c4", "#ffffff", "#c4c4c4", "#6b6b6b", "#000000")
"""Size of a difference without colour; its sign is told by marks."""
DASHES = ([1, 0], [4, 2], [1, 2], [6, 2, 1, 2], [2, 2], [8, 3])


def print_specification(
    spec: dict[str, Any], *, column: str = "single", grey: bool = False
) -> dict[str, Any]:
    """A figure's specification at the width of a column, with readable type and without its title.

    Args:
        spec: Vega-Lite, drawn with the light theme.
        column: of COLUMNS.
        grey: for print without colour: magnitude in greys, negative cells of a difference marked with a minus, lines
            told apart by dashes.
    Raises:
        ValueError: no such column.
    """
    if column not in COLUMNS:
        raise ValueError(f"column is {column!r}; it is one of {', '.join(COLUMNS)}")
    made = copy.deepcopy(spec)
    made.pop("title", None)
    made.get("usermeta", {}).pop("embedOptions", None)
    _set_width(made, COLUMNS[column] * POINTS_PER_MM)
    config = made.setdefault("config", {})
    config["background"] = "#ffffff"
    for part in ("axis", "legend", "header"):
        config.setdefault(part, {}).update(labelFontSize=TYPE, titleFontSize=TYPE + 1)
    config["axis"].update(labelColor="#222222", titleColor="#000000")
    config.setdefault("text", {})["fontSize"] = TYPE
    config.setdefault("title", {}).update(fontSize=TYPE + 1, subtitleFontSize=TYPE)
    for mark in _everywhere(made, lambda part: "fontSize" in part):
        mark["fontSize"] = (
            max(TYPE, min(float(mark["fontSize"]), TYPE + 1)) if _number(mark["fontSize"]) else TYPE
        )
    for mark in _everywhere(made, lambda part: "labelFontSize" in part and part is not config):
        mark["labelFontSize"] = (
            max(TYPE, float(mark["labelFontSize"])) if _number(mark["labelFontSize"]) else TYPE
        )
    for legend in _everywhere(made, lambda part: "gradientLength" in part):
        # A narrow column has no room for a long legend beside the label over the margin bars.
        legend["gradientLength"] = min(legend["gradientLength"], round(COLUMNS[column]))
        legend["offset"] = legend.get("offset", 6) + (16 if column == "single" else 0)
    if grey:
        _without_colour(made)
    return made


def to_pdf(spec: dict[str, Any]) -> bytes:
    """A specification as PDF, with its text as text."""
    return renderer.draw("pdf", spec)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _set_width(spec: dict[str, Any], points: float) -> None:
    """The whole picture gets this width: padding and axes are taken from the plots, in their own proportions."""
    plots = list(_plots(spec))
    if len(plots) == 1:
        plots[0]["width"] = round(points)
        plots[0]["autosize"] = {"type": "fit-x", "contains": "padding"}
        return
    # Plots beside one another keep their proportions; what lies between them is not scaled.
    given = [float(plot["width"]) for plot in plots if _number(plot.get("width"))]
    scale = points * 0.86 / max(sum(given) if "hconcat" in spec else max(given, default=points), 1.0)
    for plot in plots:
        plot["width"] = round(
            (float(plot["width"]) if _number(plot.get("width")) else points) * min(scale, 1.0)
        )


def _plots(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = [key for key in ("hconcat", "vconcat", "concat") if key in spec]
    if not inner:
        yield spec
        return
    for key in inner:
        for part in spec[key]:
            yield from _plots(part)


def _everywhere(part: Any, wanted: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """Every object in a specification that is wanted; data is left out."""
    if isinstance(part, dict):
        if wanted(part):
            yield part
        for name, value in part.items():
            if name not in ("data", "datasets"):
                yield from _everywhere(value, wanted)
    elif isinstance(part, list):
        for value in part:
            yield from _everywhere(value, wanted)


def _without_colour(spec: dict[str, Any]) -> None:
    themes: tuple[Theme, ...] = (LIGHT, DARK)
    magnitude = {theme.sequential for theme in themes}
    difference = {theme.diverging for theme in themes}
    for scale in list(_everywhere(spec, lambda part: isinstance(part.get("range"), list))):
        colours = tuple(scale["range"])
        if colours in magnitude:
            scale["range"] = list(GREYS)
        elif colours in difference:
            scale["range"] = list(GREY_DIVERGING)
            scale["moescopeSigned"] = True
        elif all(_is_colour(colour) for colour in colours):
            scale["range"] = [_grey(colour) for colour in colours]
    for layered in list(_everywhere(spec, lambda part: isinstance(part.get("layer"), list))):
        _mark_signs(layered)
    for signed in _everywhere(spec, lambda part: "moescopeSigned" in part):
        del signed["moescopeSigned"]
    for line in _everywhere(
        spec, lambda part: _mark_type(part) == "line" and "color" in part.get("encoding", {})
    ):
        line["encoding"].setdefault("strokeDash", {"field": "name", "type": "nominal", "legend": None,
                                                   "scale": {"range": [list(dash) for dash in DASHES]}})  # fmt: skip


def _is_colour(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 7 and value.startswith("#")


def _grey(colour: str) -> str:
    """The grey of a colour's luminance (ITU-R BT.709 weights)."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    level = round(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return f"#{level:02x}{level:02x}{level:02x}"


def _mark_type(part: dict[str, Any]) -> str | None:
    mark = part.get("mark")
    return mark.get("type") if isinstance(mark, dict) else mark


def _mark_signs(layered: dict[str, Any]) -> None:
    """A minus on every negative cell of a difference: in greys its colour is that of the positive one."""
    for part in list(layered["layer"]):
        colour = part.get("encoding", {}).get("color", {}) if _mark_type(part) == "rect" else {}
        if isinstance(colour, dict) and colour.get("scale", {}).get("moescopeSigned") and "field" in colour:
            steps: list[dict[str, Any]] = [{"filter": f"datum['{colour['field']}'] < 0"}]
            places = {}
            for axis in ("x", "y"):
                channel = dict(part["encoding"][axis])
                if f"{axis}2" in part["encoding"]:
                    ends = [channel["field"], part["encoding"][f"{axis}2"]["field"]]
                    middle = " + ".join(f"datum['{end}']" for end in ends)
                    steps.append({"calculate": f"({middle}) / 2", "as": f"middle_{axis}"})
                    channel["field"] = f"middle_{axis}"
                places[axis] = channel
            layered["layer"].append(
                {
                    **({"data": part["data"]} if "data" in part else {}),
                    "transform": [*part.get("transform", []), *steps],
                    "mark": {"type": "text", "text": "−", "fontSize": TYPE, "color": "#ffffff", "stroke": "#000000",
                             "strokeWidth": 0.3},
                    "encoding": places,
                }
            )  # fmt: skip
