"""How an uploaded prompt set is read: shown, changed by menus, and traced as it was shown."""

from __future__ import annotations

from pathlib import Path

from page_test import text_of
from streamlit.testing.v1 import AppTest

from moescope.tracer import PromptSet

ROWS = [
    ("Schöne Grüße", "de", "greeting", "1"),
    ("Kind regards", "en", "greeting", "1"),
    ("Wie spät?", "de", "question", "2"),
]


def script(path: str, folder: str) -> None:
    from pathlib import Path

    import streamlit as st

    from moescope.app.screens.library import prompt_reading

    st.session_state["read"] = prompt_reading.draw(Path(path), Path(folder))


def opened(path: Path, folder: Path) -> AppTest:
    app = AppTest.from_function(
        script, kwargs={"path": str(path), "folder": str(folder)}, default_timeout=30
    ).run()
    assert not app.exception
    return app


def test_a_table_from_excel_and_pandas_is_detected_mapped_counted_and_traced(tmp_path):
    lines = [";Satz;Sprache;Art;Nr"] + [f"{n};{';'.join(row)}" for n, row in enumerate(ROWS)]
    path = tmp_path / "export.csv"
    path.write_bytes("\r\n".join(lines).encode("cp1252"))
    app = opened(path, tmp_path / "own")
    text = text_of(app)
    assert "Detected: CSV, CP1252, cells separated by semicolons." in text
    assert "Which column holds the prompts?" in text
    assert "ms-error" not in text
    assert app.session_state["read"] is None
    for role, column in {"text": "Satz", "language": "Sprache", "group": "Art", "parallel_id": "Nr"}.items():
        box = next(box for box in app.selectbox if (box.key or "").startswith(f"role {role} "))
        assert box.options == ["none", "row", "Satz", "Sprache", "Art", "Nr"]
        box.set_value(column)
    app.run()
    text = text_of(app)
    assert "3 prompts; 2 languages: de 2, en 1; 2 groups: greeting 2, question 1" in text
    assert "2 parallel texts of up to 2 prompts, 1 without a partner" in text
    traced, prompts = app.session_state["read"]
    found = [(p.text, p.language, p.group, p.parallel_id) for p in PromptSet.from_file(traced)]
    assert found == ROWS
    assert [p.tags for p in prompts] == [{"row": str(n)} for n in range(3)]


def test_a_plain_file_is_traced_itself(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("text,language\nHello,en\nHallo,de\n")
    app = opened(path, tmp_path / "own")
    assert "Detected: CSV, UTF-8, cells separated by commas." in text_of(app)
    assert app.session_state["read"][0] == path
    assert not (tmp_path / "own").exists()
    box = next(box for box in app.selectbox if (box.key or "").startswith("role language "))
    box.set_value("none").run()
    traced, prompts = app.session_state["read"]
    assert traced != path
    assert [(p.language, p.tags) for p in prompts] == [
        (None, {"language_column": "en"}),
        (None, {"language_column": "de"}),
    ]
