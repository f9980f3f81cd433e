"""Pictures in a process of their own: drawn, refused, and given up where they take too long."""

from __future__ import annotations

import time

import pytest

from moescope.app.render_process import Renderer, RenderError

SPEC = {
    "data": {"values": [{"a": 1}]},
    "mark": "point",
    "encoding": {"x": {"field": "a", "type": "quantitative"}},
}
SLOW = SPEC | {"data": {"sequence": {"start": 0, "stop": 40_000_000}, "name": "n"}}


@pytest.fixture(scope="module")
def renderer():
    made = Renderer()
    yield made
    made.stop()


def test_a_picture_is_drawn_and_a_bad_one_named(renderer):
    assert renderer.draw("png", SPEC).startswith(b"\x89PNG")
    with pytest.raises(RenderError):
        renderer.draw("png", {"mark": "nonsense"})
    assert renderer.draw("svg", SPEC).startswith(b"<svg")


def test_one_that_takes_too_long_is_given_up_and_the_next_is_drawn(renderer):
    began = time.monotonic()
    with pytest.raises(RenderError, match="not drawn within"):
        renderer.draw("png", SLOW, seconds=0.5)
    assert time.monotonic() - began < 30
    assert renderer.draw("svg", SPEC).startswith(b"<svg")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://127.0.0.1:9/data.json"])
def test_nothing_is_loaded(renderer, url):
    spec = SPEC | {"data": {"url": url}}
    try:
        drawn = renderer.draw("svg", spec).decode()
    except RenderError:
        return
    assert "root:" not in drawn
