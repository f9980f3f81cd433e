"""`moescope trace` refuses cheap mistakes before it loads a model, and says what it is about to do."""

from __future__ import annotations

import pytest

from moescope.app.cli.commands import run

NO_MODEL = "no/such-model"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text\n" + "a b c\n" * 5)
    return str(path)


def said(capsys, *arguments):
    code = run(["trace", NO_MODEL, *arguments])
    assert code == 1
    return capsys.readouterr().err


def test_a_folder_with_other_files(prompts, tmp_path, capsys):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine.txt").write_text("mine")
    error = said(capsys, prompts, "--out", str(tmp_path / "t"))
    assert "holds other files (mine.txt)" in error
    assert "loading" not in error


def test_a_trace_that_is_there_already(prompts, tmp_path, capsys):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "trace.json").write_text("{}")
    error = said(capsys, prompts, "--out", str(tmp_path / "t"))
    assert "loading" not in error


def test_a_file_where_a_folder_should_be(prompts, tmp_path, capsys):
    error = said(capsys, prompts, "--out", str(tmp_path / "p.csv" / "t"))
    assert "p.csv is a file: a trace needs a folder" in error
    assert "loading" not in error


def test_a_bad_prompt_file_and_a_missing_profile(prompts, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("words\na\n")
    assert "no column 'text'" in said(capsys, str(tmp_path / "bad.csv"), "--out", str(tmp_path / "t"))
    error = said(capsys, prompts, "--out", str(tmp_path / "t"), "--steer", str(tmp_path / "none.json"))
    assert "none.json" in error
    assert "loading" not in error


def test_a_model_that_is_not_there_is_one_line(prompts, tmp_path, capsys):
    error = said(capsys, prompts, "--out", str(tmp_path / "t"))
    assert error.startswith(f"moescope: {NO_MODEL}: ")
    assert error.count("\n") == 1


def test_only_the_prompts_that_will_run_are_announced(prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    error = said(capsys, prompts, "--out", str(tmp_path / "t"), "--limit", "2")
    assert "the first 2 of 5 prompts" in error
    assert not (tmp_path / "t").exists()
