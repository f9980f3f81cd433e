"""Figures for print: their width, their smallest type, and signs without colour."""

from __future__ import annotations

import io

import pytest
from pypdf import PdfReader

from moescope.app import export, print_export
from moescope.app.figures.theme import LIGHT
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


@pytest.mark.parametrize("column", print_export.COLUMNS)
@pytest.mark.parametrize("name", ["load", "load-difference", "routing-entropy"])
def test_the_page_is_as_wide_as_the_column(specs, name, column):
    made = print_export.to_pdf(print_export.print_specification(specs[name], column=column))
    box = PdfReader(io.BytesIO(made)).pages[0].mediabox
    assert float(box.width) / print_export.POINTS_PER_MM == pytest.approx(print_export.COLUMNS[column], abs=1)


@pytest.mark.parametrize("name", ["load", "load-difference", "routing-entropy"])
def test_no_type_is_smaller_than_seven_points(specs, name):
    sizes = []

    def visit(text, matrix, position, font, size):
        if text.strip():
            scale = [abs(m[0] * m[3] - m[1] * m[2]) ** 0.5 for m in (matrix, position)]
            sizes.append(size * scale[0] * scale[1])

    made = print_export.to_pdf(print_export.print_specification(specs[name]))
    PdfReader(io.BytesIO(made)).pages[0].extract_text(visitor_text=visit)
    assert sizes
    assert min(sizes) >= 7 - 1e-6


def test_a_difference_in_greys_marks_every_negative_cell(specs):
    made = print_export.print_specification(specs["load-difference"], grey=True)
    marks = [
        layer
        for layer in made["layer"]
        if isinstance(layer.get("mark"), dict) and layer["mark"].get("text") == "−"
    ]
    assert len(marks) == 1
    assert marks[0]["transform"][0]["filter"] == "datum['value'] < 0"
    text = str({key: value for key, value in made.items() if key != "datasets"})
    assert not any(colour in text for colour in (*LIGHT.diverging[:3], *LIGHT.diverging[4:]))


def test_another_column_is_refused(specs):
    with pytest.raises(ValueError, match=r"single, 1\.5, double"):
        print_export.print_specification(specs["load"], column="triple")
