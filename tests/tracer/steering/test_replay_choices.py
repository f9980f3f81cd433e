# pyright: reportOptionalSubscript=false
"""Replay on prompts with choices and completions: trace, evaluate, generate and a server act on the same tokens."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.store.compare import pair_traces, view
from moescope.tracer import Steering, trace_prompts
from moescope.tracer.errors import SteeringError
from moescope.tracer.evaluate.run import evaluate
from moescope.tracer.generate.text import generate
from moescope.tracer.prompts.prompt_set import PromptSet
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.limits import Limits
from moescope.tracer.serve.requests import score

ASKED = PromptSet.from_rows(
    [
        {"id": "sky", "text": "the sky is", "choices": [" blue", " a cat"], "answer": 0},
        {"id": "sea", "text": "fish live in the", "choices": [" sea", " sky", " car"], "answer": 0},
    ]
)
ANSWERED = PromptSet.from_rows(
    [
        {"id": f"{prompt.id}-{n}", "text": prompt.text, "completion": choice}
        for prompt in ASKED
        for n, choice in enumerate(prompt.choices or ())
    ]
)
PAIRS = sum(len(prompt.choices or ()) for prompt in ASKED)


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer()


@pytest.fixture(scope="module")
def model():
    """The one that replays."""
    return tiny_olmoe(seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("choices")


@pytest.fixture(scope="module")
def traces(model, tokenizer, folder):
    """What the other model and this one choose: of the texts alone, and of texts with each choice."""
    other = tiny_olmoe()
    for name, run in (("other", other), ("own", model)):
        for kind, prompts in (("texts", ASKED), ("whole", ANSWERED)):
            trace_prompts(run, tokenizer, prompts, folder / f"{name}-{kind}", weight_type="float32")
    return {path.name: open_trace(path) for path in folder.iterdir()}


def flips_in_layer_0(traces, kind, repeats=None):
    """Tokens of each prompt whose set differs between both models where no other layer has a say."""
    table = view(pair_traces(traces[f"own-{kind}"], traces[f"other-{kind}"]), "agreement-prompts", layers="0")
    found = dict(zip(table["prompt_id"].to_pylist(), table["flips"].to_pylist(), strict=True))
    return found if repeats is None else {p: n * repeats[p] for p, n in found.items()}


def changed_in_layer_0(model, tokenizer, prompts, steering):
    found = evaluate(model, tokenizer, prompts, steering, controls=0)
    (outcome,) = found.variants.values()
    return dict(zip(found.prompt_ids, outcome.changed_PL[:, 0].astype(int).tolist(), strict=True)), outcome


def test_choices_that_the_trace_lacks_stop_it_or_are_left_to_the_model(model, tokenizer, traces):
    trace = traces["other-texts"]
    with pytest.raises(
        SteeringError, match=r"prompt 'sky' .* ends before position 11 \(layer 0\).*span \"prompt\""
    ):
        evaluate(model, tokenizer, ASKED, Steering.replay(trace), controls=0)
    changed, _ = changed_in_layer_0(model, tokenizer, ASKED, Steering.replay(trace, span="prompt"))
    choices = {prompt.id: len(prompt.choices or ()) for prompt in ASKED}
    assert changed == flips_in_layer_0(traces, "texts", choices)


def test_choices_are_replayed_where_the_trace_holds_them(model, tokenizer, traces):
    steering = Steering.replay(traces["other-whole"])
    changed, outcome = changed_in_layer_0(model, tokenizer, ASKED, steering)
    flips = flips_in_layer_0(traces, "whole")
    assert changed == {p: sum(n for name, n in flips.items() if name.startswith(p)) for p in ("sky", "sea")}
    # One row a choice, as completions, is the same work.
    by_row, rows = changed_in_layer_0(model, tokenizer, ANSWERED, steering)
    assert by_row == flips
    np.testing.assert_allclose(outcome.kl_P.sum(), rows.kl_P.sum(), rtol=1e-4)
    np.testing.assert_allclose(outcome.nll_P, rows.nll_P[[0, 2]], rtol=1e-5)


def test_a_server_scores_choices_as_an_evaluation_does(model, tokenizer, traces, folder, monkeypatch):
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(folder))
    served = Served.of(model, tokenizer)
    rows = [{"id": p.id, "text": p.text, "choices": list(p.choices or ()), "answer": p.answer} for p in ASKED]
    rule = {"rule": "replay", "trace": "other-texts", "span": "prompt"}
    try:
        asked = {
            "prompts": rows,
            "steering": {"version": 1, "rules": [rule]},
            "chat": False,
            "compare": True,
            "positions": False,
        }
        events = [event for event in score.prepare(served, asked, Limits())(served) if event]
    finally:
        served.close()
    _, outcome = changed_in_layer_0(
        model, tokenizer, ASKED, Steering([rule | {"trace": traces["other-texts"].url}])
    )
    likely = [one["steered"]["choice_logprobs"][0] for one in events[-1]["prompts"]]
    np.testing.assert_allclose(likely, -outcome.nll_P, rtol=1e-5)


def test_a_trace_and_an_answer_replay_the_text_alone(model, tokenizer, traces, folder):
    wanted = traces["other-texts"]
    with pytest.raises(SteeringError, match="ends before position 11"):  # its choices are scored too
        trace_prompts(model, tokenizer, ASKED, folder / "stopped", steering=Steering.replay(wanted))
    steering = Steering.replay(wanted, span="prompt")
    summary = trace_prompts(model, tokenizer, ASKED, folder / "made", steering=steering)
    made = open_trace(folder / "made")
    overall = view(pair_traces(wanted, made), "agreement-overall").to_pylist()[0]
    assert overall["flips"] == 0
    assert overall["decisions"] == wanted.num_events
    _, outcome = changed_in_layer_0(model, tokenizer, ASKED, steering)
    assert summary.accuracy == outcome.correct_P.mean()
    texts = [prompt.text for prompt in ASKED]
    answers = generate(
        model, tokenizer, texts, max_new_tokens=3, steering=Steering.replay(wanted, span="prompt")
    )
    own = generate(model, tokenizer, texts, max_new_tokens=3)
    assert [len(one.token_ids) for one in answers] == [len(one.token_ids) for one in own]
