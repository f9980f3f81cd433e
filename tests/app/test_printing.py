"""Figures for print: their width, nothing cut off, their smallest type, and categories and signs without colour."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pytest
import vl_convert
from PIL import Image
from pypdf import PdfReader

from moescope.app import export
from moescope.app.figures import alignment
from moescope.app.figures.theme import LIGHT
from moescope.app.printing import hatching
from moescope.app.printing import specification as printing
from moescope.app.reports.of_view import FIGURES
from moescope.store import open_trace, sample_dir


@pytest.fixture(scope="module")
def specs():
    trace = open_trace(sample_dir() / "trace")
    asked = {
        "load": {},
        "load-difference": {"where_a": {"language": ["ja"]}, "where_b": {"language": ["en"]}},
        "routing-entropy": {"resamples": 20},
    }
    return {
        name: export.specification(FIGURES[name].draw(trace.view(name, **params), LIGHT))
        for name, params in asked.items()
    }


@pytest.mark.parametrize("column", printing.COLUMNS)
@pytest.mark.parametrize("name", ["load", "load-difference", "routing-entropy"])
def test_the_page_is_as_wide_as_the_column(specs, name, column):
    made = printing.to_pdf(printing.print_specification(specs[name], column=column))
    box = PdfReader(io.BytesIO(made)).pages[0].mediabox
    assert float(box.width) / printing.POINTS_PER_MM == pytest.approx(printing.COLUMNS[column], abs=1)


@pytest.mark.parametrize("name", ["load", "load-difference", "routing-entropy"])
def test_no_type_is_smaller_than_seven_points(specs, name):
    sizes = []

    def visit(text, matrix, position, font, size):
        if text.strip():
            scale = [abs(m[0] * m[3] - m[1] * m[2]) ** 0.5 for m in (matrix, position)]
            sizes.append(size * scale[0] * scale[1])

    made = printing.to_pdf(printing.print_specification(specs[name]))
    PdfReader(io.BytesIO(made)).pages[0].extract_text(visitor_text=visit)
    assert sizes
    assert min(sizes) >= 7 - 1e-6


def test_a_difference_in_greys_marks_every_negative_cell(specs):
    made = printing.print_specification(specs["load-difference"], grey=True)
    marks = [
        layer
        for layer in made["layer"]
        if isinstance(layer.get("mark"), dict) and layer["mark"].get("text") == "−"
    ]
    assert len(marks) == 1
    assert marks[0]["transform"][0]["filter"] == "datum['value'] < 0"
    text = str({key: value for key, value in made.items() if key != "datasets"})
    assert not any(colour in text for colour in (*LIGHT.diverging[:3], *LIGHT.diverging[4:]))


def lines_of(languages: dict[str, str]) -> dict:
    """Lines of languages over three layers; a language belongs to a class."""
    rows = [
        {"language": code, "layer": layer, "divergence": 0.1 * at + 0.05 * layer, "low": None, "high": None}
        for at, code in enumerate(languages)
        for layer in range(3)
    ]
    table = pa.Table.from_pylist(rows)
    chart = alignment.by_layer(table, "divergence", label="divergence", classes=("script", languages))
    return export.specification(chart)


SCRIPTS = {
    "ar": "Arabic", "ru": "Cyrillic", "hi": "Devanagari", "el": "Greek", "zh": "Han", "ko": "Hangul",
    "he": "Hebrew", "ja": "Japanese", "de": "Latin", "th": "Thai", "ta": "Tamil", "ka": "Georgian",
}  # fmt: skip


def size_of(svg: str) -> tuple[float, float]:
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found
    return float(found[1]), float(found[2])


def ink_outside(svg: str) -> int:
    """Pixels that are drawn beyond the edges of a picture: what would be cut off."""
    width, height = size_of(svg)
    edge = 100
    wider = (
        f'width="{width + 2 * edge}" height="{height + 2 * edge}" overflow="visible" '
        f'viewBox="{-edge} {-edge} {width + 2 * edge} {height + 2 * edge}"'
    )
    svg = re.sub(r'width="[\d.]+" height="[\d.]+" viewBox="0 0 [\d.]+ [\d.]+"', wider, svg, count=1)
    drawn = np.array(Image.open(io.BytesIO(vl_convert.svg_to_png(svg))))[..., 3] > 20
    drawn[edge - 2 : int(edge + height) + 2, edge - 2 : int(edge + width) + 2] = False
    return int(drawn.sum())


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("column", ["single", "double"])
def test_nothing_is_cut_off_not_even_a_legend_of_many_classes(column, grey):
    placed = pa.table({"placement": ["even"], "value": [0.5]})
    wide_title = {
        "data": {"values": placed.to_pylist()}, "width": 960, "height": 60, "mark": "bar",
        "encoding": {
            "x": {"field": "value", "type": "quantitative",
                  "title": "share of what goes from a layer to the next that changes the device"},
            "y": {"field": "placement", "type": "nominal"},
        },
    }  # fmt: skip
    for spec in (lines_of(SCRIPTS), wide_title):
        made = printing.print_specification(spec, column=column, grey=grey)
        svg = printing.to_svg(made).decode()
        assert ink_outside(svg) == 0
        assert size_of(svg)[0] / printing.POINTS_PER_MM == pytest.approx(printing.COLUMNS[column], abs=1)
    # The measure finds what it is for: a legend in one row, as it was.
    (layer,) = [part for part in made.get("layer", [made]) if "encoding" in part][:1]
    layer["encoding"]["x"]["title"] = "a title far wider than the column is, " * 4
    assert (
        ink_outside(printing.to_svg(made | {"autosize": {"type": "fit-x", "contains": "padding"}}).decode())
        > 0
    )


def test_without_colour_no_two_classes_look_alike():
    made = printing.print_specification(lines_of(SCRIPTS), grey=True)
    (line,) = [part for part in made["layer"] if part["mark"]["type"] == "line"]
    signs = [line["encoding"][channel]["scale"] for channel in ("color", "shape")]
    assert signs[0]["domain"] == signs[1]["domain"] == sorted(SCRIPTS.values())
    assert len(set(zip(signs[0]["range"], signs[1]["range"], strict=True))) == len(SCRIPTS)
    legends = [line["encoding"][channel]["legend"] for channel in ("color", "shape")]
    assert legends[0] == legends[1]  # equal legends are drawn as one, with mark and grey
    assert not re.search(r'fill="#(?!(..)\1\1")', printing.to_svg(made).decode())


def test_areas_are_hatched_and_a_rest_stays_pale():
    kinds = [f"expert {number}" for number in range(9)] + ["others"]
    spec = {
        "data": {"values": [{"kind": kind, "part": 0.1, "x": 0} for kind in kinds]}, "width": 300, "height": 100,
        "mark": "bar",
        "encoding": {"x": {"field": "x", "type": "nominal"}, "y": {"field": "part", "type": "quantitative"},
                     "color": {"field": "kind", "type": "nominal"}},
    }  # fmt: skip
    svg = printing.to_svg(printing.print_specification(spec, grey=True)).decode()
    bars = re.findall(r'aria-roledescription="bar"[^>]*fill="([^"]+)"', svg)
    assert len(bars) == len(set(bars)) == 10
    assert sum(fill.startswith("url(#hatch") for fill in bars) > 4
    assert hatching.PALEST in bars


def test_colours_that_stand_in_the_data_become_greys():
    spec = {
        "data": {"values": [{"x": 0, "colour": "#ff0000"}, {"x": 1, "colour": "#0000ff"}]}, "width": 300,
        "mark": "rect",
        "encoding": {"x": {"field": "x", "type": "ordinal"},
                     "color": {"field": "colour", "type": "nominal", "scale": None}},
    }  # fmt: skip
    svg = printing.to_svg(printing.print_specification(spec, grey=True)).decode()
    assert 'fill="#363636"' in svg  # .2126 · 255
    assert 'fill="#121212"' in svg  # .0722 · 255
    assert "#ff0000" not in svg


def test_another_column_is_refused(specs):
    with pytest.raises(ValueError, match=r"single, 1\.5, double"):
        printing.print_specification(specs["load"], column="triple")
