"""The Data page: examples and schema beside the editor, the grid, downloads, and exports of the whole trace."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import moescope.app
from moescope.app.screens.data import EXAMPLES, FORMATS, export_bytes, export_name
from moescope.app.shell.page_context import PageContext
from moescope.store import open_trace
from moescope.store.sql.query import view_columns

MAIN = Path(moescope.app.__file__).parent / "main.py"


@pytest.fixture
def page(hand_library: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    st.cache_data.clear()
    st.cache_resource.clear()
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    app.session_state["travel"] = ("data", {"trace": "hand"})
    return app.run()


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_every_example_goes_into_the_editor_and_is_answered(
    page: AppTest, hand_library: Path, example: str
) -> None:
    page.button_group(key="example").select(example).run()
    assert not page.exception
    query = EXAMPLES[example].format(layer=0)
    assert page.text_area(key="sql").value == query
    expected = open_trace(hand_library / "hand").sql(query)
    grid = page.dataframe[0].value
    assert len(grid) == expected.num_rows > 0
    assert list(grid.columns) == expected.column_names


def test_the_schema_stands_beside_the_editor(page: AppTest, hand_library: Path) -> None:
    expected = view_columns(open_trace(hand_library / "hand"))
    labels = [fold.label for fold in page.expander]
    assert labels == list(expected)
    shown = [list(table.value["column"]) for table in page.dataframe if "type" in table.value.columns]
    assert sorted(shown) == sorted([name for name, _ in columns] for columns in expected.values())


def test_an_answer_can_be_downloaded(page: AppTest) -> None:
    buttons: Any = page.get("download_button")
    assert {"CSV", "Parquet", "Export"} <= {button.label for button in buttons}


@pytest.mark.parametrize("form", list(FORMATS))
def test_the_whole_trace_is_exported_in_every_format(hand_library: Path, form: str, tmp_path: Path) -> None:
    trace = open_trace(hand_library / "hand")
    context = PageContext(url=trace.url, name="hand", trace=trace)
    data = export_bytes(context, form)
    if form == "duckdb":
        import duckdb

        (tmp_path / export_name("hand", form)).write_bytes(data)
        with duckdb.connect(str(tmp_path / "hand.duckdb"), read_only=True) as connection:
            counted = connection.sql("SELECT count(*) FROM selections").fetchall()
        assert counted == [(trace.num_events * 2,)]
        return
    names = {name.split(".")[0] for name in zipfile.ZipFile(io.BytesIO(data)).namelist()}
    assert {"trace", "prompts", "tokens"} <= names
    assert json.loads(zipfile.ZipFile(io.BytesIO(data)).read("trace.json"))["model"] == trace.manifest.model
