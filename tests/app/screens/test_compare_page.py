"""The Compare page: says what changed, names what is missing, and shows prompts literally."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from page_test import text_of
from streamlit.testing.v1 import AppTest

from moescope.app.screens.steer import server
from moescope.app.sentences import agreement as sentences
from moescope.app.steering import profiles
from moescope.app.steering.replay import replay_rules
from moescope.store import TraceWriter, open_trace
from moescope.store.compare import pair_traces, view
from moescope.store.noise import Variation
from moescope.store.write.synthetic import Synthetic, synthetic_parts
from moescope.tracer.evaluate.effects import Evaluation
from moescope.tracer.evaluate.outcome import Outcome

PLAN = Synthetic(prompts=12, tokens_per_prompt=12, languages=3, experts=8, top_k=2, layers=3)
EVIL = "<script>window.hacked=1</script>**b**"


def written(path: Path, flips: float, plan: Synthetic = PLAN) -> None:
    settings = {"routers": plan.routers(), "prompt_set": {}, "settings": {}}
    with TraceWriter(path, model={"name": "made", "dtype": str(flips)}, **settings) as out:
        for part in synthetic_parts(plan):
            for events in part.events:
                chosen = np.random.default_rng(events.layer).random(len(events.experts)) < flips
                experts = events.experts.astype(np.int64)
                experts[chosen, 1] = (experts[chosen, 0] + 1) % plan.experts
                events.experts = experts.astype(np.uint16)
            part.sums.clear()
            at = part.tokens.schema.get_field_index("token")
            part.tokens = part.tokens.set_column(at, "token", pa.array([EVIL] * len(part.tokens)))
            out.write(part)
        out.finish()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    written(folder / "a", 0.0)
    written(folder / "b", 0.4)
    written(folder / "other", 0.0, Synthetic(prompts=3, experts=4, top_k=2, layers=1))
    return folder


def draw(url: str, second: str | None) -> None:
    """The script of an AppTest: the page on two traces."""
    import streamlit as st

    from moescope.app.screens import compare
    from moescope.app.shell import messages
    from moescope.app.shell.page_context import PageContext
    from moescope.store import open_trace as reopen

    context = PageContext(
        url=url, name="a", trace=reopen(url), second_url=second, second_name="b" if second else None,
        second=reopen(second) if second else None,
    )  # fmt: skip
    st.session_state["page context"] = context
    with messages.guarded("Compare could not be drawn"):
        compare.page(context)


def run(library: Path, monkeypatch: pytest.MonkeyPatch, second: str | None = "b", **state: object) -> AppTest:
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(library))
    other = str(library / second) if second else None
    app = AppTest.from_function(draw, kwargs={"url": str(library / "a"), "second": other}, default_timeout=60)
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def test_it_says_the_numbers_of_the_views(library, monkeypatch):
    app = run(library, monkeypatch)
    assert not app.exception
    pairs = pair_traces(open_trace(library / "a"), open_trace(library / "b"))
    overall = view(pairs, "agreement-overall").to_pylist()[0]
    shown = text_of(app)
    assert sentences.headline(overall, "a", "b")[:40] in shown
    assert "could not be" not in shown
    assert "model.dtype" in str([frame.value.to_dict() for frame in app.dataframe])


def test_prompts_are_shown_literally(library, monkeypatch):
    shown = text_of(run(library, monkeypatch))
    assert "&lt;script&gt;" in shown
    assert "<script>window" not in shown


def test_it_splits_by_a_tag(library, monkeypatch):
    app = run(library, monkeypatch, by="language", measure="overlap")
    assert not app.exception
    assert "could not be" not in text_of(app)


def test_without_a_second_trace_it_says_how_to_choose_one(library, monkeypatch):
    assert "No second trace is chosen" in text_of(run(library, monkeypatch, second=None))


def test_where_the_library_holds_no_second_trace_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr("moescope.store.library.sample_dir", lambda: tmp_path / "no sample")
    written(tmp_path / "a", 0.0)
    app = run(tmp_path, monkeypatch, second=None)
    assert "The library holds no second trace" in text_of(app)
    assert "Compared with" not in text_of(app)  # the bar draws no such box
    assert app.button(key="compare-library").label == "Open the Library"


def test_traces_of_other_routers_are_refused_in_one_sentence(library, monkeypatch):
    assert "has 8 experts in A and 4 in B" in text_of(run(library, monkeypatch, second="other"))


def test_the_noise_floor_stands_beside_the_result():
    floor = [
        Variation(cause="batch", base="1", other="16", events=1000, sets=20, order=0, weights=1,
                  weights_changed=0, largest_weight_change=0.0)
    ]  # fmt: skip
    assert sentences.noise(floor, 0.01).endswith("no larger than that by another number of prompts a batch.")
    assert "no larger" not in sentences.noise(floor, 0.05)
    assert sentences.noise([], 0.1) == ""


def test_replay_goes_to_steer_as_a_rule_with_the_prompt(library, monkeypatch):
    app = run(library, monkeypatch)
    app.button(key="replay-steer").click().run()
    page, params = app.session_state["travel"]
    (rule,) = profiles.from_address(params["profile"])["rules"]
    assert page == "steer"
    assert rule == {"rule": "replay", "trace": "b", "weights": "live", "span": "prompt"}
    texts = open_trace(library / "a").prompts()["text"].to_pylist()
    assert params["ask"] in texts


def test_a_trace_that_lies_elsewhere_is_not_offered_by_name(library, monkeypatch, tmp_path):
    written(tmp_path / "elsewhere", 0.2)
    shown = text_of(run(library, monkeypatch, second=str(tmp_path / "elsewhere")))
    assert "lies elsewhere" in shown


def test_replay_names_the_layers_that_both_traces_have():
    routers = [*PLAN.routers(), replace(PLAN.routers()[0], layer=9)]
    shared = [spec.key for spec in PLAN.routers()]
    assert replay_rules("b", shared, PLAN.routers()) == [
        {"rule": "replay", "trace": "b", "weights": "live", "span": "all"}
    ]
    assert replay_rules("b", shared, routers)[0]["layers"] == [0, 1, 2]


class Live:
    """A server that is played: it keeps what it is asked, and has an evaluation ready."""

    def __init__(self) -> None:
        self.asked: dict = {}

    def evaluate(self, prompts, steering, **options):
        self.asked = {"prompts": len(prompts), "steering": steering, **options}
        return self

    def status(self):
        base, replayed = Outcome.empty(2, 3), Outcome.empty(2, 3)
        base.positions_P[:] = base.tokens_P[:] = 10
        base.nll_P[:] = 10 * np.log(8)
        replayed.nll_P[:], replayed.kl_P[:] = 10 * np.log(16), [1.0, 3.0]
        found = Evaluation(prompt_ids=["p", "q"], groups={}, routers=[], base=base, kinds={}, profiles={}, notes=[],
                           variants={"A with B's routing": replayed})  # fmt: skip
        return {"state": "complete", "result": {"evaluation": found.to_json()}, "progress": {}}


def test_a_live_model_is_asked_for_a_with_bs_routing(library, monkeypatch):
    live = Live()
    served = server.Served(model="m", client=live, about={"dtype": "0.0"})  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(server, "in_precision", lambda context, dtype: served)
    app = run(library, monkeypatch)
    app.button(key="attribute-run").click().run()
    assert live.asked["variants"] == {
        "A with B's routing": {"rules": [{"rule": "replay", "trace": "b", "weights": "live", "span": "all"}]}
    }
    assert (live.asked["prompts"], live.asked["steering"], live.asked["controls"]) == (12, None, 0)
    app.run()
    shown = text_of(app)
    assert "move by 0.2 nats" in shown  # (1 + 3) / 20
    assert "routing 16." in shown  # the perplexity


def test_a_live_model_of_another_precision_is_not_a(library, monkeypatch):
    served = server.Served(model="m", client=Live(), about={"dtype": "bfloat16"}, attached=True)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(server, "in_precision", lambda context, dtype: served)
    assert "its choices are not A" in text_of(run(library, monkeypatch))
