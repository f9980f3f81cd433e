"""Slices: saved with the library, and used by the bar's filter, the contrast and the presets of steering."""

from __future__ import annotations

import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from moescope.app.sentences.resonance import own_set
from moescope.store import StoreError, open_trace
from moescope.store.schema import Cell
from moescope.store.slices import Slice, delete_slice, load_slices, save_slice, weights_of

from ..conftest import write_hand_trace


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(tmp_path))
    write_hand_trace(tmp_path / "hand")
    return tmp_path


def bar() -> None:
    """The script of an AppTest: the bar alone."""
    import streamlit as st

    from moescope.app.shell import topbar

    st.session_state["context"] = topbar.draw()


def presets() -> None:
    """The presets of Steer on what the bar has chosen, and the contrast's groups."""
    import streamlit as st

    from moescope.app.screens.resonance import groups
    from moescope.app.screens.steer import presets, state
    from moescope.app.shell import topbar

    context = topbar.draw()
    assert context is not None
    presets.draw(context)
    st.session_state["found"] = groups.choose(context)
    st.session_state["rules"] = state.draft().rules


def run(script, **address: str) -> AppTest:
    app = AppTest.from_function(script, default_timeout=60)
    for name, value in address.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def test_a_filter_is_saved_and_applied_by_name_and_by_link(library):
    app = run(bar, trace="hand", language="ja", tokens="text only")
    app.text_input(key="slice-name-filter").set_value("Japanese text")
    next(button for button in app.button if button.label == "Save").click().run()
    assert [(one.name, dict(one.where), one.tokens) for one in load_slices(library)] == [
        ("Japanese text", {"language": ["ja"]}, "text only")
    ]
    linked = run(bar, trace="hand", slice="Japanese text")
    context = linked.session_state["context"]
    assert (dict(context.where), context.tokens) == ({"language": ["ja"]}, "text only")
    assert context.describe().startswith("slice “Japanese text”, Japanese")
    # What is chosen beside it narrows it: groups of the hand-made trace.
    both = run(bar, trace="hand", slice="Japanese text", group="law")
    assert dict(both.session_state["context"].where) == {"language": ["ja"], "group": ["law"]}
    shown = " ".join(element.proto.body for element in run(bar, trace="hand", slice="gone").get("html"))
    assert "the slice “gone”, which this trace does not have" in shown


def test_slices_are_groups_of_a_contrast_and_presets_of_steering(library):
    trace = open_trace(library / "hand")
    ids = [one for one in trace.prompts()["prompt_id"].to_pylist() if one.startswith("en-")]
    save_slice(library, Slice(name="picked", where={"prompt_id": ids}, trace="another recording"))
    save_slice(library, Slice(name="Arabic", where={"language": ["ar"]}))
    experts = (Cell("decoder", 1, 3), Cell("decoder", 2, 7))
    save_slice(library, Slice(name="two", experts=experts, model=weights_of(trace)))
    app = run(presets, trace="hand")
    app.session_state["groups"] = "slice"
    app.run()
    contrast = app.session_state["found"]
    # Prompts picked in another recording are not offered.
    assert app.selectbox(key="target").options == ["Arabic"]
    assert contrast.ids("target") == ["ar-0", "ar-1"]
    assert len(contrast.ids("rest")) == trace.num_prompts - 2
    app.selectbox(key="steer-preset").set_value("a slice of experts").run()
    app.button(key="steer-preset-apply").click().run()
    app.run()
    assert not app.exception
    assert [(rule.layers, rule.experts) for rule in app.session_state["rules"]] == [
        ((1,), (3,)),
        ((2,), (7,)),
    ]


def test_a_set_of_experts_stands_beside_random_sets_of_the_same_layers():
    scores = [0.9, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.3]
    table = pa.table({"layer": [0] * 4 + [1] * 4, "expert": [*range(4)] * 2, "score": scores})
    mine = [True, False, False, False, True, True, False, False]
    said = own_set(table, mine, "box")
    # Any expert of layer 0 and any two of layer 1: (.1 or .9 + .3 + .3) / 3.
    assert "3 experts with a mean score of +0.5000; +0.2333 to +0.5000 for 95 % of random sets" in said
    assert own_set(table, [False] * 8, "box").startswith("No expert of “box”")


def test_experts_of_another_model_are_not_offered(library):
    trace = open_trace(library / "hand")
    cell = (Cell("decoder", 1, 3),)
    assert Slice(name="a", experts=cell, model=weights_of(trace)).fits(trace)
    assert not Slice(name="a", experts=cell, model="another").fits(trace)
    assert not Slice(name="a", experts=(Cell("decoder", 1, 8),), model=weights_of(trace)).fits(trace)
    assert not Slice(name="a", where={"language": ["xx"]}).fits(trace)


def test_what_is_no_slice_is_refused(library):
    with pytest.raises(StoreError, match="nothing is selected"):
        save_slice(library, Slice(name="empty"))
    with pytest.raises(StoreError, match="needs a name"):
        save_slice(library, Slice(name=" ", tokens="prompt"))
    save_slice(library, Slice(name="a", tokens="prompt"))
    save_slice(library, Slice(name="a", tokens="generated"))
    assert [one.tokens for one in load_slices(library)] == ["generated"]
    delete_slice(library, "a")
    assert load_slices(library) == []
    (library / "slices.json").write_text("{")
    with pytest.raises(StoreError, match="not a list of slices"):
        load_slices(library)
