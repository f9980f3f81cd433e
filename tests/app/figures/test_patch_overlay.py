"""Pictures that prompts carry: only pixels of a PNG get through; the overlay has a cell a patch, row by row."""

import base64
import io

import pytest
from PIL import Image

from moescope.app.figures.palette import expert_color
from moescope.app.figures.patch_overlay import patch_overlay
from moescope.app.figures.theme import LIGHT
from moescope.app.text.picture import PREFIX, grid_of, pixels_of


def png(size=(3, 2), **more) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, "PNG", **more)
    return PREFIX + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4x4", (4, 4)), ("2 × 14", (2, 14)), ("0x4", None), ("4", None), ("9999x1", None), ("4x4;x", None)],
)
def test_a_grid_is_rows_and_columns(text, expected):
    assert grid_of({"grid": text}) == expected


def test_a_picture_is_its_pixels_and_a_large_one_is_made_smaller():
    assert pixels_of({"picture": png()}) == [["#0ac81e"] * 3] * 2
    large = pixels_of({"picture": png((256, 128))})
    assert large is not None
    assert (len(large), len(large[0])) == (32, 64)


@pytest.mark.parametrize(
    "text",
    ["", "https://example.org/a.png", "data:image/svg+xml;base64,PHN2Zy8+", PREFIX + "no base64!", PREFIX + "AAAA",
     png((4000, 4000)), png()[:-30]],
)  # fmt: skip
def test_what_is_no_small_png_is_no_picture(text):
    assert pixels_of({"picture": text}) is None


def test_the_overlay_has_the_colour_and_number_of_each_patch_in_its_place():
    chart = patch_overlay([["#000000", "#ffffff"]], (2, 3), [0, 1, 2, 3, -1, 5]).to_dict()
    rows = next(rows for rows in chart["datasets"].values() if "expert" in rows[0])
    assert [(row["x"], row["y"], row["expert"]) for row in rows] == [
        (0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 3), (1, 1, -1), (2, 1, 5),
    ]  # fmt: skip
    assert [row["color"] for row in rows[:4]] == [expert_color(expert, LIGHT) for expert in range(4)]
    assert rows[4]["color"] == LIGHT.missing
    assert [layer["mark"]["type"] for layer in chart["layer"]] == ["rect", "rect", "text"]
    pixels = next(rows for rows in chart["datasets"].values() if "pixel" in rows[0])
    assert [(row["x"], row["x2"], row["y"], row["y2"]) for row in pixels] == [(0, 1.5, 0, 2), (1.5, 3, 0, 2)]
    assert len(patch_overlay(None, (2, 3), [0] * 6).to_dict()["layer"]) == 2
