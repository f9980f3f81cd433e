"""What figures for print look up in a Vega-Lite specification: its plots, their layers, channels, data and colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from PIL import ImageFont

Spec = dict[str, Any]
COLOUR_CHANNELS = ("color", "fill", "stroke")
LEGEND_CHANNELS = (*COLOUR_CHANNELS, "shape", "strokeDash", "opacity", "size")
CONCATENATED = ("hconcat", "vconcat", "concat")


def everywhere(part: Any, wanted: Callable[[Spec], bool]) -> Iterator[Spec]:
    """Every object in a specification that is wanted; data is left out."""
    if isinstance(part, dict):
        if wanted(part):
            yield part
        for name, value in part.items():
            if name not in ("data", "datasets"):
                yield from everywhere(value, wanted)
    elif isinstance(part, list):
        for value in part:
            yield from everywhere(value, wanted)


def plots(spec: Spec) -> Iterator[Spec]:
    """Every plot of a picture that may be put together from several."""
    inner = [key for key in CONCATENATED if key in spec]
    if not inner:
        yield spec
    for key in inner:
        for part in spec[key]:
            yield from plots(part)


def units(plot: Spec, encoding: Spec | None = None, data: Any = None) -> Iterator[tuple[Spec, Spec, Any]]:
    """Every mark of a plot with its own encoding and its data; what a layer leaves out it has from above."""
    data = plot.get("data", data)
    if "layer" not in plot:
        if "mark" in plot:
            yield plot, plot.setdefault("encoding", {}), data
        return
    for part in plot["layer"]:
        yield from units(part, encoding, data)


def mark_type(unit: Spec) -> str:
    """The kind of mark of a layer; empty where it is none."""
    mark = unit.get("mark", "")
    return str(mark.get("type", "")) if isinstance(mark, dict) else str(mark)


def mark_of(unit: Spec) -> Spec:
    """The mark of a layer as an object that can be changed."""
    if not isinstance(unit["mark"], dict):
        unit["mark"] = {"type": unit["mark"]}
    return unit["mark"]


def definitions(encoding: Spec, names: tuple[str, ...]) -> Iterator[tuple[str, Spec]]:
    """Channels of these names that show a field, also where only a condition does."""
    for name in names:
        channel = encoding.get(name)
        if not isinstance(channel, dict):
            continue
        conditions = channel.get("condition", [])
        for one in (channel, *(conditions if isinstance(conditions, list) else [conditions])):
            if isinstance(one, dict) and "field" in one:
                yield name, one


def is_category(definition: Spec) -> bool:
    """Whether a channel tells categories apart by a scale of its own."""
    return definition.get("type") in ("nominal", "ordinal") and definition.get("scale", {}) is not None


def rows(spec: Spec, data: Any) -> list[Spec]:
    """The rows of a layer's data, where the specification holds them."""
    if not isinstance(data, dict):
        return []
    found = spec.get("datasets", {}).get(data["name"]) if "name" in data else data.get("values")
    return found if isinstance(found, list) else []


def categories(spec: Spec, definition: Spec, data: Any) -> list[Any]:
    """The categories of a channel in the order of its scale."""
    domain = (definition.get("scale") or {}).get("domain")
    if isinstance(domain, list):
        return domain
    found = {row.get(definition["field"]) for row in rows(spec, data)}
    return sorted(
        (value for value in found if value is not None), key=lambda value: (str(type(value)), value)
    )


def is_colour(value: Any) -> bool:
    """Whether it is a colour as this project writes them: #rrggbb."""
    return isinstance(value, str) and len(value) == 7 and value.startswith("#")


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a common sans serif of this size."""
    return ImageFont.load_default(size=100).getlength(text) * size / 100
