"""The Steer page without a browser, with a model process that is played: what it says in every state."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import moescope.app
from moescope.app.screens.steer.switchboard import new_edits
from moescope.app.sentences.answers import outcome
from moescope.app.steering import profiles, servers
from moescope.app.steering.answers import Answers
from moescope.app.steering.history import Draft
from moescope.store import RouterSpec, open_trace
from moescope.store.schema import Cell
from moescope.tracer.client import ServerError
from moescope.tracer.serve.token_file import write_token
from moescope.tracer.steering.read import read_rules

MAIN = Path(moescope.app.__file__).parent / "main.py"
LAYERS, EXPERTS = 4, 8
OFF = {"name": "no <b>five</b>", "rules": [{"rule": "off", "layers": [2], "experts": [5]}]}


@pytest.fixture(autouse=True)
def _fresh_caches():
    st.cache_data.clear()
    st.cache_resource.clear()


def well(app: AppTest) -> str:
    """The page's text, after making sure that nothing failed."""
    assert not app.exception, app.exception
    parts = [element.proto.body for element in app.get("html")] + [m.value for m in app.markdown]
    text = "\n".join(parts)
    assert "could not be drawn" not in text
    assert "Traceback" not in text
    return text


def event(side: str, index: int, text: str, kl: float = 0.0, changed: tuple[str, ...] = ()) -> dict[str, Any]:
    likely = {"base": [[1, "a", -0.1], [2, "b", -3.0]], "steered": [[2, "b", -0.2], [3, "<i>", -2.5]]}
    return {
        "side": side, "index": index, "token_id": hash(text) % 1000, "token": text, "text": text, "logprob": -0.5,
        "experts": {str(layer): [layer, 7] for layer in range(LAYERS)}, "kl": kl, "changed": list(changed),
        "candidates": likely,
    }  # fmt: skip


SAME = [event(side, n, text) for n, text in enumerate(["one ", "two"]) for side in ("base", "steered")]
OTHER = [
    event("base", 0, "one "), event("steered", 0, "one ", 0.25, ("2",)),
    event("base", 1, "two", 0.5, ("2", "3")), event("steered", 1, "<script>three", 0.75, ("2",)),
]  # fmt: skip


class Playing:
    """A model process of this app, and its client, without a model."""

    def __init__(self, events: list[dict[str, Any]] | ServerError, state: str = "running") -> None:
        self.events, self.state = events, state
        self.why, self.seconds, self.reason, self.url = "out of <b>memory</b>", 3.0, "", "http://played"
        self.process, self.source = self, servers.Source("hand <b>made</b>")
        self.log_tail = "line one\nout of <b>memory</b>"
        self.asked: list[dict[str, Any]] = []

    def client(self, name: str) -> Playing:
        return self

    def model(self) -> dict[str, Any]:
        routers = [
            RouterSpec(layer=n, num_experts=EXPERTS, top_k=2, router=f"r{n}").to_json() for n in range(LAYERS)
        ]
        return {"model": {"name": "played"}, "routers": routers, "device": "cpu", "dtype": "float32",
                "limits": {"new_tokens": 64}}  # fmt: skip

    def rewire(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        if isinstance(self.events, ServerError):
            raise self.events
        vectors = {str(layer): [0.125 * (n - 3) for n in range(EXPERTS)] for layer in range(LAYERS)}
        rule = {"rule": "vector", "layers": list(range(LAYERS)), "vector": vectors}
        return {"steering": {"rules": [rule]}, "losses": [3.5, 3.25, 3.0], "tokens": 7}

    def generate(self, **asked: Any) -> Playing:
        self.asked.append(asked)
        if isinstance(self.events, ServerError):
            raise self.events
        return self

    def __enter__(self) -> Iterator[dict[str, Any]]:
        assert not isinstance(self.events, ServerError)
        return iter([*self.events, {"done": True}])

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def play(hand_library, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Open the page on the hand-made trace, with a played process or none."""

    def open_page(process: Playing | None = None, profile: Any = None, **params: str) -> AppTest:
        monkeypatch.setattr(servers, "find", lambda model: process)
        if profile is not None:
            params["profile"] = profile if isinstance(profile, str) else profiles.in_address(profile) or ""
        monkeypatch.setenv("MOESCOPE_LIBRARY", str(hand_library))
        monkeypatch.setattr("sys.argv", ["main.py"])
        app = AppTest.from_file(str(MAIN), default_timeout=60)
        app.session_state["travel"] = ("steer", {"trace": "hand", **params})
        return app.run()

    return open_page


def test_without_a_model_the_board_stands_and_the_one_action_is_offered(play):
    app = play()
    text = well(app)
    assert "The model is not running" in text
    assert html.escape("hand <b>made</b>") in text
    assert app.button(key="steer-offer").label == "Start the model"
    assert app.button(key="steer-go").disabled
    assert "No rules: the model runs as it is" in text


def test_a_shared_address_brings_its_rules_and_undo_takes_them_away(play):
    app = play(profile=OFF)
    text = well(app)
    assert "off: layer 2: 5" in text
    assert "no &lt;b&gt;five&lt;/b&gt;" in text
    app.button(key="steer-undo").click().run()
    assert "No rules" in well(app)
    app.button(key="steer-redo").click().run()
    assert "off: layer 2: 5" in well(app)
    app.button(key="steer-remove-0").click().run()
    assert "No rules" in well(app)


def test_an_address_without_a_readable_profile_says_so(play):
    text = well(play(profile="broken%"))
    assert "The profile of this address can" in text
    assert "No rules" in text


def test_a_profile_for_another_model_names_the_layers_that_are_missing(play):
    text = well(play(profile={"rules": [{"rule": "off", "layers": [1, 40], "experts": [3, 99]}]}))
    assert "This steering does not fit the model" in text
    assert "no router in layer 40" in text
    assert "no expert 99 in layer 1, which has 8" in text
    assert "4 MoE layers (0–3) of 8 experts" in text


def test_two_answers_with_the_words_that_differ_and_where_the_models_do(play):
    process = Playing(OTHER)
    app = play(process, profile=OFF)
    app.button(key="steer-go").click().run()
    text = well(app)
    assert process.asked[0]["compare"] is True
    assert process.asked[0]["steering"]["rules"] == Draft.from_json(OFF).to_json()["rules"]
    assert "one <mark>two</mark>" in text
    assert "<mark>&lt;</mark><mark>script</mark>" in text
    assert "<script" not in text
    assert "The answers part at token 1." in text
    assert "25\u202f% of routing decisions along the answer have other experts" in text
    assert "mean KL(base ‖ steered) along the steered answer is 0.5 nats" in text
    assert "Largest KL: 0.75 nats at token 1." in text
    assert "Candidates for token 1, where they differ most" in text
    table = app.dataframe[0].value
    assert list(table["token"]) == ["a", "b", "<i>"]
    assert table["base"].isna().tolist() == [False, False, True]
    app.button(key="steer-undo").click().run()
    assert "the steering has changed since" in well(app).lower()


def test_a_neutral_steering_says_that_both_answers_are_identical(play):
    app = play(Playing(SAME), profile={"rules": [{"rule": "temperature", "amount": 1}]})
    app.button(key="steer-go").click().run()
    text = well(app)
    assert "Neutral steering: no rule changes anything, so both answers are identical" in text
    assert "<mark>" not in text


def test_a_starting_model_is_waited_for(play):
    text = well(play(Playing(SAME, "starting")))
    assert "is being loaded: 3 s so far" in text


def test_a_dead_model_says_why_and_offers_to_restart(play, monkeypatch: pytest.MonkeyPatch):
    started = []
    monkeypatch.setattr(servers, "start", started.append)
    app = play(Playing(SAME, "crashed"))
    text = well(app)
    assert "The model process has ended" in text
    assert "out of &lt;b&gt;memory&lt;/b&gt;" in text
    assert "line one\nout of <b>memory</b>" in [code.value for code in app.code]
    app.button(key="steer-restart").click().run()
    assert started == [servers.Source("hand <b>made</b>")]


def test_a_refused_request_says_what_the_server_said(play):
    app = play(Playing(ServerError(413, "prompt: has 9000 tokens; at most 4096 are allowed", "prompt")))
    app.button(key="steer-go").click().run()
    text = well(app)
    assert "The answer was interrupted" in text
    assert "at most 4096 are allowed" in text


def test_an_attached_server_that_is_not_there_says_so(play, tmp_path):
    app = play()
    token = tmp_path / "token"
    write_token(token, "http://127.0.0.1:9")
    app.text_input(key="steer-url").set_value("http://127.0.0.1:9")
    app.text_input(key="steer-token").set_value(str(token))
    app.button(key="steer-attach").click().run()
    text = well(app)
    assert "The attached server does not answer" in text
    assert "127.0.0.1:9 does not answer" in text
    app.button(key="steer-detach-card").click().run()
    assert "The model is not running" in well(app)


def test_a_preset_and_a_rule_on_whole_layers_reach_the_list(play):
    app = play()
    app.session_state["steer-panel"] = "whole layers"
    app.run()
    app.selectbox(key="steer-whole").set_value("temperature").run()
    app.button(key="steer-whole-add").click().run()
    assert "temperature 1.5 in all layers" in well(app)
    app.session_state["steer-panel"] = "presets"
    app.run()
    app.selectbox(key="steer-preset").set_value("keep only the busiest").run()
    app.button(key="steer-preset-apply").click().run()
    text = well(app)
    assert "keep_only: 16 experts" in text
    assert "temperature" not in text
    app.selectbox(key="steer-preset").set_value("random control").run()
    app.button(key="steer-preset-apply").click().run()
    assert "control 0 of keep the 4 busiest" in well(app)


def learning(app: AppTest) -> AppTest:
    """The page with the panel on learning open."""
    app.session_state["steer-panel"] = "learn"
    return app.run()


def test_a_vector_is_learned_from_the_prompt_gone_on_from_and_forgotten(play):
    process = Playing(SAME)
    app = learning(play(process, OFF, ask="read this"))
    app.button(key="steer-learn-go").click().run()
    text = well(app)
    assert "fell from 3.500 to 3.000" in text
    assert "vector in layers 0–3" in text
    assert "off: layer 2: 5" in text
    asked = process.asked[-1]
    assert (asked["prompt"], asked["start"], asked["steps"], asked["layers"]) == ("read this", None, 5, "all")
    assert [rule["rule"] for rule in asked["steering"]["rules"]] == ["off"]
    app.button(key="steer-learn-go").click().run()
    assert [rule["rule"] for rule in process.asked[-1]["start"]["rules"]] == ["vector"]
    assert [rule["rule"] for rule in process.asked[-1]["steering"]["rules"]] == ["off"]
    app.toggle(key="steer-learn-renew").set_value(False).run()
    app.button(key="steer-learn-go").click().run()
    assert process.asked[-1]["start"] is None
    app.button(key="steer-learn-forget").click().run()
    assert "vector in layers" not in well(app)


def test_learning_that_is_refused_leaves_the_rules_as_they_were(play):
    app = learning(play(Playing(ServerError(422, "no router can be <steered>")), OFF, ask="read this"))
    app.button(key="steer-learn-go").click().run()
    text = well(app)
    assert "no router can be &lt;steered&gt;" in text
    assert "vector" not in text.split("Nothing was learned")[0].split("off: layer 2: 5")[-1]


def test_profiles_are_kept_in_the_library_and_a_bad_file_is_refused(play, hand_library):
    app = play(profile=OFF)
    app.session_state["steer-panel"] = "load, save, share"
    app.run()
    app.button(key="steer-save").click().run()
    assert "Saved as" in well(app)
    folder = hand_library / ".profiles"
    (kept,) = folder.glob("*.json")
    (folder / "bad.json").write_text('{"rules": [{"rule": "explode"}]}')
    app.button(key="steer-clear").click().run()
    app.selectbox(key="steer-kept").set_value("bad").run()
    app.button(key="steer-load").click().run()
    text = well(app)
    assert "This profile can't be used" in html.unescape(text)
    assert "there is no rule 'explode'" in html.unescape(text)
    app.selectbox(key="steer-kept").set_value(kept.stem).run()
    app.button(key="steer-load").click().run()
    text = well(app)
    assert "off: layer 2: 5" in text
    assert "explode" not in text


def test_the_outcome_of_answers_that_agree_although_the_model_changed():
    answers = Answers("p", Draft(read_rules(OFF["rules"])))
    for one in [event("base", 0, "x"), event("steered", 0, "x", 0.01, ("2",)), {"done": True}]:
        answers.add(one)
    said = outcome(answers, neutral=False)
    assert said.startswith("Both answers have the same 1 token, though the model beneath differs.")
    assert answers.parting is None
    assert answers.ended("base")
    assert not answers.untouched


def test_a_folder_that_is_one_gguf_file_is_started_with_it(tmp_path):
    assert servers.Source(str(tmp_path)).options == {}
    (tmp_path / "tiny.gguf").touch()
    assert servers.Source(str(tmp_path), 16).options == {"experts": 16, "gguf_file": "tiny.gguf"}
    (tmp_path / "config.json").touch()
    assert servers.Source(str(tmp_path)).options == {}


def test_a_trace_of_emergent_experts_asks_for_the_same_view_of_the_model(hand_library):
    trace = open_trace(str(hand_library / "hand"))
    assert servers.source_of(trace) == servers.Source("hand <b>made</b>")
    found = [replace(router, found_by="adapter emergent") for router in trace.routers]
    source = servers.source_of(SimpleNamespace(routers=found, manifest=trace.manifest))  # type: ignore[arg-type]
    assert source.options == {"experts": EXPERTS, "experts_used": 2}
    assert servers.Source("m", used=2).options == {}


def test_an_edit_of_the_board_is_taken_once_whatever_message_it_comes_in():
    """A message holds all edits that the browser does not know to be taken: it may repeat some."""
    one, two = ({"number": n, "cells": [["decoder", 0, n]]} for n in (1, 2))
    found, taken = new_edits({"mount": "a", "edits": [one]}, ("", 0))
    assert (found, taken) == ([[Cell("decoder", 0, 1)]], ("a", 1))
    found, taken = new_edits({"mount": "a", "edits": [one, two]}, taken)
    assert (found, taken) == ([[Cell("decoder", 0, 2)]], ("a", 2))
    assert new_edits({"mount": "a", "edits": [one, two]}, taken) == ([], ("a", 2))
    # Another browser tab, or a reload, counts from 1 again.
    assert new_edits({"mount": "b", "edits": [one]}, taken) == ([[Cell("decoder", 0, 1)]], ("b", 1))
    assert new_edits({}, taken) == ([], taken)
