"""A picture that can be read without colour.

Magnitude is a scale of greys, a difference too, with a minus on each negative cell. Categories differ by more than
their grey: lines by marks, or dashes where they have none; points by marks; areas by hatches. Whatever else has a
colour gets the grey of its luminance.
"""

from __future__ import annotations

from typing import Any

from ..figures.theme import DARK, LIGHT
from . import parts
from .hatching import FILLS, fills
from .parts import COLOUR_CHANNELS, Spec, mark_of, mark_type

GREYS = ("#ffffff", "#d9d9d9", "#b0b0b0", "#7a7a7a", "#444444", "#000000")
"""Magnitude without colour."""
GREY_DIVERGING = ("#000000", "#6b6b6b", "#c4c4c4", "#ffffff", "#c4c4c4", "#6b6b6b", "#000000")
"""Size of a difference without colour; its sign is told by marks."""
LEVELS = ("#000000", "#5a5a5a", "#949494")
"""Greys of lines and points; the palest has a contrast of 3 : 1 on white."""
DASHES = ([1, 0], [5, 2], [1, 2], [6, 2, 1, 2], [2, 2], [9, 3])
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
LINES, POINTS = ("line", "trail", "rule"), ("point", "circle", "square")
POINT_SIZE = 26.0
BAR = "#8c8c8c"


def without_colour(spec: Spec, size: float) -> None:
    """Change a specification so that it is read in greys; `size` of the type, in points."""
    _scales(spec)
    for layered in list(parts.everywhere(spec, lambda part: isinstance(part.get("layer"), list))):
        _mark_signs(layered, size)
    for signed in parts.everywhere(spec, lambda part: "moescopeSigned" in part):
        del signed["moescopeSigned"]
    for plot in parts.plots(spec):
        _categories(spec, plot)
    _rest(spec)


def too_many(spec: Spec) -> int:
    """How many colours cells or areas have, where that is more than can be told apart without them; else 0."""
    most = 0
    for plot in parts.plots(spec):
        for unit, encoding, data in parts.units(plot, data=spec.get("data")):
            for _, definition in parts.definitions(encoding, COLOUR_CHANNELS):
                if mark_type(unit) in ("rect", "area", "bar") and definition.get("type") == "nominal":
                    found = len(parts.categories(spec, definition, data))
                    named = definition["field"] in {
                        encoding.get(axis, {}).get("field") for axis in ("x", "y")
                    }
                    most = max(most, found if found > len(FILLS) and not named else 0)
    return most


def _scales(spec: Spec) -> None:
    """Colour scales of numbers."""
    magnitude = {theme.sequential for theme in (LIGHT, DARK)}
    difference = {theme.diverging for theme in (LIGHT, DARK)}
    for scale in list(parts.everywhere(spec, lambda part: isinstance(part.get("range"), list))):
        colours = tuple(scale["range"])
        if colours in magnitude:
            scale["range"] = list(GREYS)
        elif colours in difference:
            scale["range"] = list(GREY_DIVERGING)
            scale["moescopeSigned"] = True


def _categories(spec: Spec, plot: Spec) -> None:
    """What tells categories apart in one plot."""
    units = list(parts.units(plot, data=spec.get("data")))
    fields = [
        (unit, definition["field"])
        for unit, encoding, _ in units
        for _, definition in parts.definitions(encoding, COLOUR_CHANNELS)
        if mark_type(unit) in (*LINES, *POINTS)
    ]
    drawn_as_lines = {field for _, field in fields}
    dashed = {field for unit, field in fields if mark_type(unit) == "line" and not mark_of(unit).get("point")
              and "strokeDash" not in mark_of(unit)}  # fmt: skip
    for unit, encoding, data in units:
        for name, definition in list(parts.definitions(encoding, COLOUR_CHANNELS)):
            if mark_type(unit) == "text":
                encoding[name] = {"value": "#000000"}
            elif definition.get("scale", {}) is None:
                _data_greys(spec, unit, definition["field"], data)
            elif parts.is_category(definition):
                names = parts.categories(spec, definition, data)
                as_line = definition["field"] in drawn_as_lines
                chosen = [LEVELS[at % len(LEVELS)] for at in range(len(names))] if as_line else fills(names)
                definition["scale"] = (definition.get("scale") or {}) | {"domain": names, "range": chosen}
                if as_line:
                    _second_sign(unit, encoding, definition, names, dashed=definition["field"] in dashed)


def _second_sign(unit: Spec, encoding: Spec, definition: Spec, names: list[Any], *, dashed: bool) -> None:
    """Marks beside the grey; dashes where the field has a line without marks."""
    mark, kind = mark_of(unit), mark_type(unit)
    legend = definition.get("legend", {})
    if isinstance(legend, dict):
        legend = {key: value for key, value in legend.items() if key != "symbolType"} | (
            {"symbolType": "stroke", "symbolSize": 220, "symbolStrokeWidth": 1.4}
            if dashed
            else {"symbolSize": 45}
        )
        definition["legend"] = legend
    if kind not in ("line", *POINTS) or "strokeDash" in mark or "shape" in mark:
        return
    if isinstance(mark.get("point"), dict):
        mark["point"] = mark["point"] | {"size": POINT_SIZE, "filled": True}
    if kind in POINTS and not dashed:
        mark |= {"type": "point", "filled": True}
    channel, values = ("strokeDash", DASHES) if dashed else ("shape", SHAPES)
    if "field" in encoding.get(channel, {}) or (dashed and kind in POINTS):
        return
    encoding[channel] = {
        "field": definition["field"], "type": definition["type"], "legend": legend,
        "scale": {"domain": names, "range": [values[at % len(values)] for at in range(len(names))]},
        **({"title": definition["title"]} if "title" in definition else {}),
        **({"sort": definition["sort"]} if "sort" in definition else {}),
    }  # fmt: skip


def _data_greys(spec: Spec, unit: Spec, field: str, data: Any) -> None:
    """Colours that stand in the data; bars are named on their axis and get one grey."""
    thin = mark_type(unit) in (*LINES, *POINTS, "area")
    for row in parts.rows(spec, data):
        if parts.is_colour(row.get(field)):
            row[field] = BAR if mark_type(unit) == "bar" else grey(row[field], darkest_only=thin)


def _rest(part: Any) -> None:
    """Every colour that is left in a specification, beside its data, to the grey of its luminance."""
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for name, value in list(items):
        if name in ("data", "datasets"):
            continue
        if parts.is_colour(value):
            part[name] = grey(value)
        else:
            _rest(value)


def grey(colour: str, *, darkest_only: bool = False) -> str:
    """The grey of a colour's luminance (ITU-R BT.709 weights); a grey stays as it is.

    Args:
        darkest_only: no paler than the palest of LEVELS, for what is thin.
    """
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    if max(red, green, blue) - min(red, green, blue) <= 1:
        return colour  # also those that stand for hatches
    level = round(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    level = min(level, int(LEVELS[-1][1:3], 16)) if darkest_only else level
    return f"#{level:02x}{level:02x}{level:02x}"


def _mark_signs(layered: Spec, size: float) -> None:
    """A minus on every negative cell of a difference: in greys its colour is that of the positive one."""
    for part in list(layered["layer"]):
        colour = part.get("encoding", {}).get("color", {}) if mark_type(part) == "rect" else {}
        scale = (colour.get("scale") or {}) if isinstance(colour, dict) else {}
        if not scale.get("moescopeSigned") or "field" not in colour:
            continue
        steps: list[Spec] = [{"filter": f"datum['{colour['field']}'] < 0"}]
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
                "mark": {"type": "text", "text": "−", "fontSize": size, "color": "#ffffff", "stroke": "#000000",
                         "strokeWidth": 0.3},
                "encoding": places,
            }
        )  # fmt: skip
