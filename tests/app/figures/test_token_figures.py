"""The Tokens page's arrays and pictures, against the events as stored."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.app.figures.token_arrays import token_arrays
from moescope.app.figures.token_grid import _expression, token_grid
from moescope.app.screens.token_view import TokenText, _flowing, _payload, standalone
from moescope.app.screens.tokens import _sentence
from moescope.store import open_trace


@pytest.fixture(scope="module")
def trace(hand_library):
    return open_trace(hand_library / "hand")


def test_arrays_are_the_events_in_their_order(trace):
    arrays = token_arrays(trace.view("prompt-tokens", prompt_id="ja-1"))
    assert arrays.layers == [0, 1, 2, 3]
    assert arrays.tokens == trace.tokens("ja-1")["token"].to_pylist()
    events = trace.events("ja-1").to_pylist()
    assert len(events) == arrays.ids_LTK.shape[0] * arrays.ids_LTK.shape[1]
    for event in events:
        assert arrays.ids_LTK[event["layer"], event["position"]].tolist() == event["experts"]
        assert arrays.weights_LTK is not None
        assert arrays.weights_LTK[event["layer"], event["position"]].tolist() == pytest.approx(
            event["weights"]
        )
    assert arrays.flags[0] == "special"
    assert set(arrays.flags[1:]) == {""}


def test_tokens_with_one_between_them_that_has_no_expert_are_no_neighbours():
    rows = [(0, [3]), (1, []), (2, [3]), (3, [3])]
    view = pa.table(
        {"position": [p for p, _ in rows], "layer": [0] * 4, "token": list("abcd"), "token_id": [0] * 4,
         "experts": pa.array([e for _, e in rows], pa.list_(pa.uint8())), "special": [False] * 4,
         "phase": ["prefill"] * 4, "completion": [False] * 4}
    )  # fmt: skip
    text = TokenText(title="x", language=None, arrays=token_arrays(view))
    frame: Any = SimpleNamespace(
        stream="decoder", trace=SimpleNamespace(router=lambda *_: SimpleNamespace(num_experts=8))
    )
    said = _sentence(frame, text, 0)
    assert "3 tokens go first to 1 of 8 experts; 33.3\u202f% of neighbouring tokens" in said
    assert "chance 12.5\u202f%" in said


def test_varying_k_is_padded_with_empty_slots(tmp_path):
    from moescope.store.write.synthetic import Synthetic, write_synthetic

    write_synthetic(tmp_path / "t", Synthetic(prompts=2, layers=2, experts=8, top_k=4, varying_k=True))
    trace = open_trace(tmp_path / "t")
    arrays = token_arrays(trace.view("prompt-tokens", prompt_id="p000000"))
    for event in trace.events("p000000").to_pylist():
        ids = arrays.ids_LTK[event["layer"], event["position"]]
        assert ids[ids >= 0].tolist() == event["experts"]
        assert (ids[len(event["experts"]) :] == -1).all()


def test_the_window_cuts_tokens_everywhere(trace):
    arrays = token_arrays(trace.view("prompt-tokens", prompt_id="en-0"))
    window = arrays.window(2, 5)
    assert window.tokens == arrays.tokens[2:5]
    assert np.array_equal(window.ids_LTK, arrays.ids_LTK[:, 2:5])


def test_the_grid_shows_the_first_expert_of_every_token(trace):
    arrays = token_arrays(trace.view("prompt-tokens", prompt_id="en-0"))
    spec = token_grid(arrays).to_dict()
    rows = spec["datasets"][spec["data"]["name"]]
    assert len(rows) == arrays.ids_LTK[:, :, 0].size
    for row in rows:
        assert row["expert"] == arrays.ids_LTK[row["layer"], row["position"], 0]


@given(st.lists(st.text(), max_size=4))
def test_axis_labels_survive_as_an_expression(texts: list[str]):
    expression = _expression(texts)
    assert json.loads(expression.replace("'", '"')) == texts
    assert set(expression) <= set("[],'\\") | set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    )


def test_line_breaks_break_the_line_and_are_seen():
    assert _flowing("a\nb") == "a⏎\nb"
    assert _flowing("\n\n") == "⏎\n⏎\n"
    assert _flowing("") == "∅"


def test_the_component_gets_strings_only(trace):
    arrays = token_arrays(trace.view("prompt-tokens", prompt_id="evil-0"))
    payload = _payload(TokenText(title="t", language="en", arrays=arrays))
    assert payload["runs"][1][0] == "<script>window.hacked=1</script>"
    json.dumps(payload, allow_nan=False)


def test_the_standalone_page_is_escaped(trace):
    arrays = token_arrays(trace.view("prompt-tokens", prompt_id="evil-0"))
    page = standalone([TokenText(title="<b>", language="ar", arrays=arrays)], layer=1, title="<i>").decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert '<p dir="rtl">' in page
