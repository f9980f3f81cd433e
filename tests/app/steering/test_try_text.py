"""A typed text's routing from the live model is what a trace of the same text holds."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from moescope.app.figures.token_arrays import token_arrays
from moescope.app.steering.try_text import routing_of
from moescope.store import open_trace, sample_dir
from moescope.tracer import PromptSet, load_model, trace_prompts
from moescope.tracer.client import ServerError, connect
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.server import serve_in_background

TEXT = "All people are born free. すべての人間は自由です。 सभी"


@pytest.fixture(scope="module")
def loaded():
    return load_model(str(sample_dir() / "model"), dtype="float32")


@pytest.fixture(scope="module")
def address(loaded):
    with serve_in_background(lambda: Served.of(loaded.model, loaded.tokenizer)) as address:
        assert address.engine.wait_ready(60)
        yield address


def test_it_is_the_routing_that_a_trace_records(tmp_path, loaded, address):
    trace_prompts(
        loaded.model, loaded.tokenizer, PromptSet.from_rows([{"id": "a", "text": TEXT}]), tmp_path / "t"
    )
    trace = open_trace(tmp_path / "t")
    recorded = token_arrays(trace.view("prompt-tokens", prompt_id="a"))
    client = connect(address.url, address.token)
    table, note = routing_of(client, TEXT, trace.routers, "decoder")
    with pytest.raises(ServerError):
        routing_of(client, "", trace.routers, "decoder")
    tried = token_arrays(table)
    assert note == ""
    assert (tried.tokens, tried.token_ids) == (recorded.tokens, recorded.token_ids)
    assert (tried.layers, tried.positions) == (recorded.layers, recorded.positions)
    # Two passes of other batch shapes may round one close choice otherwise.
    assert (tried.ids_LTK == recorded.ids_LTK).mean() > 0.99


def tokens_page() -> None:
    """The script of an AppTest: the page on the sample."""
    from moescope.app.screens import tokens
    from moescope.app.shell import topbar

    context = topbar.draw()
    assert context is not None
    tokens.page(context)


def shown(app: AppTest) -> str:
    assert not app.exception, [error.message for error in app.exception]
    return " ".join(element.proto.body for element in app.get("html"))


def test_a_typed_text_stands_beneath_the_prompt(tmp_path, monkeypatch, address):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    app = AppTest.from_function(tokens_page, default_timeout=60)
    app.session_state["steer-attached"] = (address.url, address.token)
    app.run()
    app.text_area(key="try-typed").set_value(TEXT)
    next(button for button in app.button if button.label == "Run").click().run()
    assert "Your text: at layer 0" in shown(app)
    app.button(key="try-clear").click().run()
    assert "Your text: at layer 0" not in shown(app)
