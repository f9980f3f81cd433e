"""What holds for every example: it has a card that says what is toy, is short, runs, and is listed."""

import ast
import json
import runpy
from pathlib import Path

import pytest

from moescope.app.cli import run as command
from moescope.sample_data import gallery

LONGEST = 150


@pytest.mark.parametrize("name", gallery.ORDER)
def test_every_example_is_one_short_script_with_a_whole_card(name):
    source = (gallery.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST
    card = gallery.card(name)
    assert card.papers
    assert card.title
    assert all((card.sentence, card.real, card.toy, card.not_shown, card.look_at))
    runs = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "run"
    ]
    assert [argument.arg for argument in runs[0].args.kwonlyargs] == ["small", "seed"]


def test_every_script_is_in_the_gallery():
    helpers = {"__init__", "kit", "process"}
    assert {path.stem for path in gallery.FOLDER.glob("*.py")} - helpers == set(gallery.ORDER)


@pytest.mark.parametrize("name", gallery.ORDER)
def test_the_trace_of_an_example_is_whole_and_says_what_is_toy(made, name):
    trace = made(name)
    assert trace.state == "complete"
    assert not trace.problems
    settings = trace.manifest.settings
    assert (settings["example"], settings["toy"]) == (name, gallery.card(name).toy.replace("`", ""))
    page, _, query = gallery.card(name).opens.partition("?")
    asked = dict(pair.split("=") for pair in query.split("&"))
    assert page in ("structure", "heatmap", "tokens")
    assert asked.get("stream", trace.routers[0].stream) in {spec.stream for spec in trace.routers}
    by = asked.get("by", "position")
    assert by == "position" or by in trace.tags()


def test_the_page_of_the_docs_is_made_of_the_cards_and_every_card_has_its_pictures():
    docs = Path(__file__).parents[3] / "docs"
    made = runpy.run_path(str(docs / "gallery.py"))["page"]()
    assert (docs / "gallery.md").read_text(encoding="utf-8") == made, "run: python docs/gallery.py"
    for card in gallery.cards():
        assert (docs / "img" / "gallery" / f"{card.name}.png").is_file()
        assert all(path.is_file() for path in card.thumbnails.values())


def test_the_command_lists_all_examples_and_their_papers(capsys):
    assert command(["example"]) == 0
    text = capsys.readouterr().out
    for card in gallery.cards():
        assert card.name in text
        assert all(paper in text for paper in card.papers)


def test_the_command_makes_a_trace_and_says_what_to_look_at(tmp_path, capsys):
    assert command(["example", "series", "--out", str(tmp_path / "t")]) == 0
    text = capsys.readouterr().out
    card = gallery.card("series")
    assert card.toy in text
    assert card.look_at in text
    assert command(["example", "series", "--out", str(tmp_path / "t")]) == 1
    assert "already" in capsys.readouterr().err
    assert command(["example", "kmeans_gate", "--out", str(tmp_path / "u"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] > 0


def test_open_starts_the_explorer_on_the_new_trace(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        "moescope.app.cli.app._run", lambda command, environment, folder: started.append(environment) or 0
    )
    assert command(["example", "whole_models", "--out", str(tmp_path / "t"), "--open"]) == 0
    assert [environment["MOESCOPE_TRACE"] for environment in started] == [str(tmp_path / "t")]


@pytest.mark.parametrize("words", [["nothing", "--out", "x"], ["series"], ["--open"]])
def test_the_command_refuses_what_is_no_example(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["example", *words]) == 2
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err
