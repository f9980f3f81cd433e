"""A shared app shows nothing before its token is given."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

import moescope.app
from moescope.app import TOKEN
from moescope.app.shell import gate

MAIN = Path(moescope.app.__file__).parent / "main.py"


def test_nothing_is_shown_before_the_token(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "WAIT_SECONDS", 0.0)
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    monkeypatch.setenv(TOKEN, "a-long-and-random-token")
    monkeypatch.setattr("sys.argv", ["main.py"])
    app = AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert not app.title
    app.text_input[0].set_value("wrong")
    app.button[0].click()
    app.run()
    assert not app.title
    app.text_input[0].set_value("a-long-and-random-token")
    app.button[0].click()
    app.run()
    assert app.title[0].value == "Library"
