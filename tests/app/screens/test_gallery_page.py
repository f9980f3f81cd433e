"""The gallery in the Library: cards that say what is toy and run or open an example; patches over their image."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from moescope.app.screens.library.gallery import address
from moescope.sample_data import gallery
from moescope.store import open_trace
from moescope.tracer.jobs.jobs import Job, start_example


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    gallery.run("patches", folder / "patches", small=True)
    return folder


def draw_cards() -> None:
    from moescope.app.screens.library import gallery as cards
    from moescope.app.shell import sources

    cards.draw(sources.summaries())


def test_every_card_says_what_is_toy_and_runs_or_opens(library, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    started = []
    monkeypatch.setattr(
        "moescope.app.screens.library.gallery.start_example", lambda *asked: started.append(asked)
    )
    app = AppTest.from_function(draw_cards, default_timeout=60).run()
    assert not app.exception
    text = "\n".join(str(element.proto.body) for element in app.get("html"))
    for card in gallery.cards():
        assert card.title in text
        assert "Toy:" in text
        assert all(f"arxiv.org/abs/{number}" in text for number in card.papers)
    keys = {button.key for button in app.button}
    made = {"patches"}
    assert {f"gallery-run-{name}" for name in gallery.ORDER if name not in made} <= keys
    assert "gallery-open-patches" in keys
    assert "gallery-run-patches" not in keys
    app.button(key="gallery-run-series").click().run()
    assert started == [("series", library / "series")]


def test_a_card_whose_example_is_being_made_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    (tmp_path / "actor.job").mkdir()
    (tmp_path / "actor.job" / "job.json").write_text('{"example": "actor"}', encoding="utf-8")
    monkeypatch.setattr("moescope.tracer.jobs.jobs.Job._alive", lambda job: True)
    app = AppTest.from_function(draw_cards, default_timeout=60).run()
    assert app.button(key="gallery-busy-actor").disabled
    assert "gallery-run-actor" not in {button.key for button in app.button}


def test_the_address_of_a_card_is_that_of_a_page():
    page, params = address(gallery.card("kmeans_gate"))
    assert page == "structure"
    assert params == {"question": "Timeline", "by": "step", "tag.family": ["oscillator"]}


def draw_tokens(url: str) -> None:
    import streamlit as st

    from moescope.app.screens import tokens
    from moescope.app.shell.page_context import PageContext
    from moescope.store import open_trace as reopen

    context = PageContext(url=url, name="patches", trace=reopen(url))
    st.session_state["page context"] = context
    tokens.page(context)


def test_an_image_stands_under_its_experts_beside_its_other_task(library, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    app = AppTest.from_function(
        draw_tokens, kwargs={"url": str(library / "patches")}, default_timeout=60
    ).run()
    assert not app.exception, [error.message for error in app.exception]
    assert "Experts over the image" in [element.value for element in app.subheader]
    trace = open_trace(library / "patches")
    first = {
        name: [event["experts"][0] for event in trace.events(name, layer=0).to_pylist()]
        for name in ("image 0, digit", "image 0, edges")
    }
    moved = sum(a != b for a, b in zip(*first.values(), strict=True))
    text = "\n".join(str(element.proto.body) for element in app.get("html"))
    assert f"{moved} of 16 patches have another first expert in image 0, edges." in text
    assert "picture" not in trace.tags()


def test_an_example_is_made_by_a_process_of_its_own(tmp_path):
    job = start_example("whole_models", tmp_path / "whole_models")
    until = time.monotonic() + 200
    while not (status := Job(job.folder).status()).ended and time.monotonic() < until:
        time.sleep(0.2)
    assert (status.state, status.error) == ("complete", None)
    assert open_trace(tmp_path / "whole_models").manifest.settings["example"] == "whole_models"
    again = job.retry()
    while not (status := again.status()).ended and time.monotonic() < until:
        time.sleep(0.2)
    assert status.state == "failed"
    assert "already" in str(status.error)
    again.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["whole_models"]
