"""Figures for print: PDF and SVG at the widths of a paper's columns, with type of at least 7 points.

In Vega's PDFs and SVGs one pixel is one point (1/72 inch), so widths and type sizes are given in points here.
"""

from __future__ import annotations

import copy
from typing import Any

from ..render_process import renderer
from .greys import without_colour
from .hatching import hatched
from .layout import arrange, set_width
from .parts import Spec, everywhere

COLUMNS = {"single": 85.0, "1.5": 120.0, "double": 174.0}
"""Width in millimetres; those of most journals are within 5 mm of it."""
POINTS_PER_MM = 72 / 25.4
TYPE = 7.5
"""Points, of labels; titles get one more. Journals ask for 7 at least."""


def print_specification(spec: Spec, *, column: str = "single", grey: bool = False) -> Spec:
    """A figure's specification at the width of a column, with readable type and without its title.

    Args:
        spec: Vega-Lite, drawn with the light theme.
        column: of COLUMNS.
        grey: for print without colour: magnitude in greys, negative cells of a difference marked with a minus, lines
            told apart by marks or dashes, areas by hatches (which `to_svg` and `to_pdf` draw).
    Raises:
        ValueError: no such column.
    """
    if column not in COLUMNS:
        raise ValueError(f"column is {column!r}; it is one of {', '.join(COLUMNS)}")
    points = COLUMNS[column] * POINTS_PER_MM
    made = copy.deepcopy(spec)
    made.pop("title", None)
    made.get("usermeta", {}).pop("embedOptions", None)
    _set_type(made)
    arrange(made, points, TYPE, narrow=column != "double")
    if grey:
        without_colour(made, TYPE)
    set_width(made, points)
    return made


def to_svg(spec: Spec) -> bytes:
    """A specification as SVG."""
    return hatched(renderer.draw("svg", spec).decode()).encode()


def to_pdf(spec: Spec) -> bytes:
    """A specification as PDF, with its text as text."""
    return renderer.draw("svg_pdf", to_svg(spec).decode())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _set_type(made: Spec) -> None:
    """No type below TYPE, none much larger; black on white."""
    config = made.setdefault("config", {})
    config["background"] = "#ffffff"
    for part in ("axis", "legend", "header"):
        config.setdefault(part, {}).update(labelFontSize=TYPE, titleFontSize=TYPE + 1)
    config["axis"].update(labelColor="#222222", titleColor="#000000")
    config["legend"].update(labelColor="#222222", titleColor="#000000")
    config.setdefault("text", {})["fontSize"] = TYPE
    config.setdefault("title", {}).update(fontSize=TYPE + 1, subtitleFontSize=TYPE)
    for mark in everywhere(made, lambda part: "fontSize" in part):
        size = mark["fontSize"]
        mark["fontSize"] = max(TYPE, min(float(size), TYPE + 1)) if _number(size) else TYPE
    for label in everywhere(made, lambda part: "labelFontSize" in part and part is not config):
        size = label["labelFontSize"]
        label["labelFontSize"] = max(TYPE, float(size)) if _number(size) else TYPE
