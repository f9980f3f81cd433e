# pyright: reportOptionalSubscript=false
"""Replay: a recorded routing is what is executed, token by token, or nothing runs."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import Steering, record_routing, trace_prompts
from moescope.tracer.errors import SteeringError
from moescope.tracer.evaluate.run import evaluate
from moescope.tracer.generate.text import generate
from moescope.tracer.prompts.prompt_set import PromptSet

TEXTS = ["one two", "a longer text", "three"]


@pytest.fixture(scope="module")
def model():
    return tiny_olmoe()


@pytest.fixture(scope="module")
def other():
    return tiny_olmoe(seed=1)


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer()


@pytest.fixture(scope="module")
def trace(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "own"
    trace_prompts(model, tokenizer, TEXTS, path, weight_type="float32")
    return open_trace(path)


def batch_of(tokenizer, side="right"):
    tokenizer.padding_side = side
    return dict(tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


def run(model, batch, steering=None):
    with (steering or Steering()).applied(model), record_routing(model) as routing, torch.no_grad():
        logits = model(**batch).logits
    return logits, routing


def sets(trace):
    """What was executed, without the order."""
    rows = trace.events(columns=["prompt_id", "position", "layer", "experts"]).to_pylist()
    return {(r["prompt_id"], r["position"], r["layer"]): set(r["experts"]) for r in rows}


def real(batch):
    return batch["attention_mask"].bool()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("weights", ["live", "recorded"])
def test_replaying_its_own_trace_gives_its_own_logits(model, tokenizer, trace, side, weights):
    batch = batch_of(tokenizer, side)
    base, _ = run(model, batch)
    replayed, _ = run(model, batch, Steering.replay(trace, weights=weights))
    torch.testing.assert_close(replayed[real(batch)], base[real(batch)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["live", "recorded"])
def test_replaying_the_same_batch_changes_no_bit(model, tokenizer, weights):
    batch = batch_of(tokenizer)
    base, routing = run(model, batch)
    replayed, _ = run(model, batch, Steering.replay(routing, weights=weights))
    assert torch.equal(replayed, base)


def test_a_foreign_routing_is_executed(model, other, tokenizer, trace):
    batch = batch_of(tokenizer)
    _, wanted = run(model, batch)
    _, own = run(other, batch)
    _, found = run(other, batch, Steering.replay(trace))
    mask = real(batch).reshape(-1)
    for layer in range(3):
        assert torch.equal(found.ids(layer)[mask].sort(-1).values, wanted.ids(layer)[mask].sort(-1).values)
        assert not torch.equal(own.ids(layer)[mask].sort(-1).values, wanted.ids(layer)[mask].sort(-1).values)
    # Live weights: the scores of those experts, as OLMoE gives them (not normalised).
    p_TE, ids = found.probabilities(0), found.ids(0)
    weights = found.weights(0)
    assert p_TE is not None
    assert weights is not None
    torch.testing.assert_close(weights[mask], p_TE.gather(-1, ids)[mask], rtol=1e-4, atol=1e-6)


def test_recorded_weights_are_those_of_the_trace(model, other, tokenizer, trace):
    batch = batch_of(tokenizer)
    _, wanted = run(model, batch)
    _, found = run(other, batch, Steering.replay(trace, weights="recorded"))
    mask = real(batch).reshape(-1)
    for layer in range(3):
        torch.testing.assert_close(
            found.weights(layer)[mask], wanted.weights(layer)[mask], rtol=1e-5, atol=1e-6
        )


def test_replaying_a_permuted_trace_is_the_permuted_model(model, tokenizer):
    """Experts renamed in the recorded routing, and in the model: the same numbers."""
    batch = batch_of(tokenizer)
    base, routing = run(model, batch)
    permutation = torch.tensor([3, 1, 4, 0, 7, 6, 2, 5])
    permuted = copy.deepcopy(model)
    for layer in permuted.model.layers:
        for name, values in layer.mlp.experts.named_parameters():
            new = torch.empty_like(values)
            new[permutation] = values.data
            layer.mlp.experts.get_parameter(name).data = new
    renamed = copy.deepcopy(routing)
    renamed._calls = {
        key: [(permutation[ids], weights, logits) for ids, weights, logits in calls]
        for key, calls in routing._calls.items()
    }
    replayed, _ = run(permuted, batch, Steering.replay(renamed, weights="recorded"))
    torch.testing.assert_close(replayed, base, rtol=1e-4, atol=1e-4)


def test_only_named_layers_and_spans_are_replayed(model, other, tokenizer, trace):
    batch = batch_of(tokenizer)
    mask = real(batch)
    _, own = run(other, batch)
    _, found = run(other, batch, Steering.replay(trace, layers=[1], span={"from": 2, "to": 4}))
    assert torch.equal(found.ids(0), own.ids(0))
    changed = (found.ids(1).sort(-1).values != own.ids(1).sort(-1).values).any(-1).view(mask.shape)
    assert changed[:, 2:4].any()
    assert not changed[:, :2].any()


def test_another_text_stops_with_prompt_position_and_layer(model, tokenizer, trace):
    batch = dict(tokenizer(["one tWo"], return_tensors="pt", return_token_type_ids=False))
    with pytest.raises(SteeringError, match=r"prompt, '\d', has token id \d+ at position 6, .*layer 0"):
        run(model, batch, Steering.replay(trace))
    longer = dict(tokenizer(["three!"], return_tensors="pt", return_token_type_ids=False))
    with pytest.raises(SteeringError, match="ends before position 6"):
        run(model, longer, Steering.replay(trace))


def test_generated_tokens_are_the_models_own_where_the_span_says_so(model, other, tokenizer, trace):
    with pytest.raises(SteeringError, match='span "prompt"'):
        generate(other, tokenizer, TEXTS, max_new_tokens=4, steering=Steering.replay(trace))
    answers = generate(
        other, tokenizer, TEXTS, max_new_tokens=4, steering=Steering.replay(trace, span="prompt")
    )
    assert len(answers) == 3


def test_generated_tokens_of_a_trace_are_replayed_with_the_cache(model, tokenizer, tmp_path):
    trace_prompts(model, tokenizer, TEXTS, tmp_path / "a", max_new_tokens=5, weight_type="float32")
    steering = Steering.replay(open_trace(tmp_path / "a"))
    plain = generate(model, tokenizer, TEXTS, max_new_tokens=5)
    replayed = generate(model, tokenizer, TEXTS, max_new_tokens=5, steering=steering)
    assert [one.token_ids for one in replayed] == [one.token_ids for one in plain]


def test_answers_that_end_at_different_times_are_replayed_in_one_batch(
    model, tokenizer, tmp_path, monkeypatch
):
    """Once an answer has ended, its row is fed what no trace holds, until the longest answer of the batch ends."""
    monkeypatch.setattr(model.generation_config, "eos_token_id", 58)  # the first text's fifth new token
    trace_prompts(model, tokenizer, TEXTS, tmp_path / "a", max_new_tokens=8, weight_type="float32")
    one = open_trace(tmp_path / "a")
    lengths = [len(one.tokens(name)) - len(text) for name, text in zip("123", TEXTS, strict=True)]
    assert lengths == [5, 8, 8]  # a first token beside the characters, and all but the last new one
    steering = Steering.replay(one, weights="recorded")
    trace_prompts(model, tokenizer, TEXTS, tmp_path / "b", max_new_tokens=8, steering=steering)
    assert sets(open_trace(tmp_path / "b")) == sets(one)


def test_a_trace_made_under_replay_holds_the_replayed_routing(other, tokenizer, trace, tmp_path):
    trace_prompts(other, tokenizer, TEXTS, tmp_path / "b", steering=Steering.replay(trace))
    made = open_trace(tmp_path / "b")
    assert sets(made) == sets(trace)
    assert made.manifest.steering is not None
    assert made.manifest.steering["rules"][0]["trace"] == trace.url


def test_it_evaluates_and_reads_back_from_json(model, tokenizer, trace):
    profile = Steering.replay(trace, weights="recorded").to_json()
    steering = Steering.from_json(profile)
    found = evaluate(model, tokenizer, PromptSet.of(TEXTS), steering, controls=0)
    (outcome,) = found.variants.values()
    assert outcome.kl_P.max() < 1e-6


def test_what_cannot_be_replayed_is_said_before_anything_runs(model, trace, tmp_path):
    def problems(**fields):
        return " ".join(Steering([{"rule": "replay", **fields}]).validate(model))

    assert problems(trace=str(tmp_path)).count("not a trace") == 1
    assert not problems(trace=trace.url)
    smaller = tiny_olmoe(num_experts=4)
    assert "has 8 experts there, the model 4" in " ".join(Steering.replay(trace).validate(smaller))
    deeper = tiny_olmoe(num_hidden_layers=4)
    assert "layer 3" in " ".join(Steering.replay(trace).validate(deeper))
    deepest = " ".join(Steering.replay(trace).validate(tiny_olmoe(num_hidden_layers=5)))
    assert deepest.count("has no router there") == deepest.count("layers 3, 4: ") == 1
    assert not Steering.replay(trace, layers=[0, 1]).validate(deeper)
    with pytest.raises(SteeringError, match="must be live or recorded"):
        Steering([{"rule": "replay", "trace": trace.url, "weights": "other"}])
    with pytest.raises(SteeringError, match="address of a trace"):
        Steering([{"rule": "replay"}])


def test_a_profile_may_name_a_trace_of_the_library(model, trace, monkeypatch):
    from pathlib import Path

    path = Path(trace.url.removeprefix("file://"))
    rule = Steering([{"rule": "replay", "trace": path.name}])
    assert rule.validate(model)
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(path.parent))
    assert not rule.validate(model)


def test_a_server_takes_names_of_its_library_only(model, tokenizer, trace, tmp_path, monkeypatch):
    from pathlib import Path

    from moescope.tracer.serve.engine.served import Served
    from moescope.tracer.serve.errors import ApiError
    from moescope.tracer.serve.limits import Limits
    from moescope.tracer.serve.requests.checks import read_steering

    path = Path(trace.url.removeprefix("file://"))
    monkeypatch.setenv("MOESCOPE_LIBRARY", str(path.parent))
    served = Served.of(model, tokenizer)
    try:

        def asked(name):
            return read_steering(
                {"version": 1, "rules": [{"rule": "replay", "trace": name}]}, served, Limits()
            )

        steering = asked(path.name)
        assert steering is not None
        assert steering.rules[0].options["trace"] == str(path)
        for name in (str(path), f"../{path.parent.name}/{path.name}", "none", "", 7, trace.url):
            with pytest.raises(ApiError, match="name of a trace in the server's library"):
                asked(name)
    finally:
        served.close()
