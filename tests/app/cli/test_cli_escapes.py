"""What a file says never reaches the terminal as a command."""

from __future__ import annotations

import pytest

from moescope.app.cli import run
from moescope.store import TraceWriter
from moescope.store.errors import StoreError
from moescope.store.schema import RouterSpec
from moescope.tracer.prompts.prompt import PromptSetError

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m"


def said(capsys, *words: str) -> tuple[int, str]:
    code = run(words)
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_info_shows_names_literally(tmp_path, capsys, flags):
    routers = [RouterSpec(layer=0, num_experts=4, top_k=2, router=ESCAPES)]
    model = {"name": f"mine{ESCAPES}"}
    TraceWriter(tmp_path / "t", routers=routers, model=model, prompt_set={}, settings={}).close()
    code, text = said(capsys, "info", str(tmp_path / "t"), *flags)
    assert code == 0
    assert "mine" in text
    assert not [char for char in ("\x1b", "\x07") if char in text]
    assert flags or "\x9b" not in text


def test_an_error_is_literal_and_short(tmp_path, capsys):
    path = tmp_path / f"no{ESCAPES}"
    code, text = said(capsys, "info", str(path))
    assert code == 1
    assert "\x1b" not in text
    assert "\x9b" not in text
    for kind in (StoreError, PromptSetError):
        assert len(str(kind("x" * 70_000))) < 2100
