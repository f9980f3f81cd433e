"""Exports are valid files that hold the same numbers, and text in them stays text."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree

import altair as alt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app import export
from moescope.app.figures.look import finish
from moescope.app.figures.theme import LIGHT
from moescope.store.tables import unescape_cell

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\u2028"


@pytest.fixture(scope="module")
def spec() -> dict:
    data = pd.DataFrame({"token": [EVIL, "b"], "share": [0.25, 0.75]})
    chart = alt.Chart(data).mark_bar().encode(x="share:Q", y="token:N")
    chart = finish(chart, LIGHT, width="container", height=80)
    return export.specification(chart, title="Share <b>", say="25 % against 75 %.", source="trace x")


def test_a_picture_carries_its_title_sentence_and_source(spec):
    assert spec["title"] == {"text": "Share <b>", "subtitle": ["25 % against 75 %.", "trace x"]}
    assert spec["width"] == export.PAGE_WIDTH


def test_png_is_a_png_of_the_full_width(spec):
    data = export.to_png(spec)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) >= 2 * export.PAGE_WIDTH * 0.9


def test_svg_is_xml_and_shows_the_text_literally(spec):
    root = ElementTree.fromstring(export.to_svg(spec))
    assert root.tag.endswith("svg")
    assert not [e for e in root.iter() if e.tag.endswith(("script", "}img"))]
    assert any((e.text or "").startswith("</script>") for e in root.iter())


def test_html_stands_alone_and_cannot_be_broken_out_of(spec):
    page = export.to_html(spec, title=EVIL).decode()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert EVIL not in page
    assert page.count("</script>") == 2
    assert page.count("<script") == len(re.findall(r"<script>", page))
    assert "\\u003c/script\\u003e" in page


def test_csv_reads_back_and_is_no_formula():
    table = pa.table(
        {"token": ["=1+1", "-x", "@a", "\tb", 'plain, with "quotes"\nand lines'], "value": [-1.5] * 5}
    )
    text = export.to_csv(table).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["token"] for row in rows] == [
        "'=1+1",
        "'-x",
        "'@a",
        "'\tb",
        'plain, with "quotes"\nand lines',
    ]
    assert {row["value"] for row in rows} == {"-1.5"}


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), min_size=1, max_size=5))
def test_csv_keeps_any_text(texts: list[str]):
    text = export.to_csv(pa.table({"token": texts, "n": list(range(len(texts)))})).decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert [unescape_cell(row[0]) for row in rows] == texts


def test_lists_and_maps_become_json_in_csv():
    tags = pa.array([[("seen", "yes")], None], pa.map_(pa.string(), pa.string()))
    table = pa.table({"experts": [[3, 1], []], "tags": tags})
    rows = list(csv.DictReader(io.StringIO(export.to_csv(table).decode("utf-8-sig"))))
    assert [row["experts"] for row in rows] == ["[3, 1]", "[]"]
    assert rows[0]["tags"] == '{"seen": "yes"}'


def test_parquet_reads_back_whole():
    table = pa.table({"a": [1, 2], "experts": [[3, 1], [2]]})
    assert pq.read_table(io.BytesIO(export.to_parquet(table))).equals(table)


def test_columns_of_the_same_name_survive():
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert pq.read_table(io.BytesIO(export.to_parquet(table))).column_names == ["a", "a_2"]
    assert export.to_csv(table).decode("utf-8-sig").splitlines()[0] == '"a","a_2"'
