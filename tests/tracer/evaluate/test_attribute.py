# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Attribution where the answer is known: only routing differs, only experts differ, nothing differs."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.app.sentences.agreement import attribution
from moescope.store import open_trace
from moescope.tracer import Steering, trace_prompts
from moescope.tracer.evaluate.attribute import attribute_routing, prompts_of
from moescope.tracer.evaluate.attribution import Attribution
from moescope.tracer.evaluate.effects import Evaluation
from moescope.tracer.evaluate.run import evaluate_steps, run_to_end
from moescope.tracer.generate.live_model import LiveModel
from moescope.tracer.prompts.prompt_set import PromptSet

TEXTS = PromptSet.from_rows(["one two three", "a longer text than that", "three", "four words are here"])


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer()


def traced(model, tokenizer, path, **settings):
    trace_prompts(model, tokenizer, TEXTS, path, weight_type="float32", **settings)
    return open_trace(path)


def rows_of(found):
    return {row["which"]: row for row in found.table(resamples=50).to_pylist()}


def test_where_only_the_router_differs_routing_carries_everything(tokenizer, tmp_path):
    a = tiny_olmoe()
    b = copy.deepcopy(a)
    with torch.no_grad():
        for layer in b.model.layers:
            layer.mlp.gate.weight += 0.1 * torch.randn(
                layer.mlp.gate.weight.shape, generator=torch.manual_seed(0)
            )
    trace = traced(b, tokenizer, tmp_path / "b")
    rows = rows_of(attribute_routing(a, b, tokenizer, trace, TEXTS, weights="recorded"))
    assert rows["B"]["kl"] > 1e-3
    assert rows["A with B's routing"]["share"] == pytest.approx(1, abs=1e-3)
    assert rows["A with B's routing"]["perplexity"] == pytest.approx(rows["B"]["perplexity"], rel=1e-4)


def test_where_only_experts_differ_routing_carries_nothing(tokenizer, tmp_path):
    a = tiny_olmoe(num_hidden_layers=1)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for weight in b.model.layers[0].mlp.experts.parameters():
            weight.mul_(1.2)
    trace = traced(b, tokenizer, tmp_path / "b")
    rows = rows_of(attribute_routing(a, b, tokenizer, trace, TEXTS))
    assert rows["B"]["kl"] > 1e-4
    assert rows["A with B's routing"]["share"] == pytest.approx(0, abs=1e-3)


def test_a_steering_is_routing_alone(tokenizer, tmp_path):
    model = tiny_olmoe()
    steering = Steering([{"rule": "off", "experts": [1, 2]}])
    trace = traced(model, tokenizer, tmp_path / "b", steering=steering)
    found = attribute_routing(model, model, tokenizer, trace, TEXTS, steering_b=steering, weights="recorded")
    rows = rows_of(found)
    assert rows["A"]["kl"] is None
    assert rows["A with B's routing"]["share"] == pytest.approx(1, abs=1e-3)
    assert "carries 100" in attribution(found.table(resamples=50))


def test_nothing_differs(tokenizer, tmp_path):
    model = tiny_olmoe()
    trace = traced(model, tokenizer, tmp_path / "a")
    assert [prompt.text for prompt in prompts_of(trace)] == [prompt.text for prompt in TEXTS]
    rows = rows_of(attribute_routing(model, model, tokenizer, trace, prompts_of(trace)))
    assert rows["B"]["kl"] == 0
    assert rows["A with B's routing"]["kl"] < 1e-8


def test_an_evaluation_on_a_live_model_gives_the_same_attribution(tokenizer, tmp_path):
    """The Compare page asks a server for an evaluation; the command runs the models itself."""
    model = tiny_olmoe()
    steering = Steering([{"rule": "off", "experts": [1, 2]}])
    trace = traced(model, tokenizer, tmp_path / "b", steering=steering)
    variants = {"A with B's routing": ("dose", Steering.replay(trace)), "B": ("dose", steering)}
    with LiveModel(model.eval()) as live:
        evaluation = run_to_end(evaluate_steps(live, tokenizer, TEXTS, variants))
    found = Attribution.of_evaluation(Evaluation.from_json(evaluation.to_json()))
    wanted = attribute_routing(model, model, tokenizer, trace, TEXTS, steering_b=steering)
    for row, other in zip(*(one.table(resamples=50).to_pylist() for one in (found, wanted)), strict=True):
        assert row.pop("which") == other.pop("which")
        assert {key for key in row if row[key] is None} == {key for key in other if other[key] is None}
        for key in [key for key in row if row[key] is not None]:
            assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6), key
    del evaluation.variants["B"]
    alone = Attribution.of_evaluation(evaluation).table(resamples=50)
    assert alone["which"].to_pylist() == ["A", "A with B's routing"]
    assert alone["share"].null_count == 2
    assert "when B's routing is replayed in A" in attribution(alone)
