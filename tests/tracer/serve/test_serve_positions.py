"""What a comparison says along its prompt is what two plain forward passes over the prompt give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe

from moescope.tracer import Steering, record_routing
from moescope.tracer.client import ServerError, connect
from moescope.tracer.generate.lanes import Lane
from moescope.tracer.serve.engine.served import Served
from moescope.tracer.serve.limits import Limits
from moescope.tracer.serve.requests import prompt_positions
from moescope.tracer.serve.requests.prompt_positions import along_prompt, first_steered
from moescope.tracer.serve.server import serve_in_background

PROMPT = "Where is the library, please?"
OFF = {"rules": [{"rule": "off", "layers": [0, 2], "experts": [1, 4, 6]}]}
LATER = {"rules": [{"rule": "off", "layers": "all", "experts": [1, 4, 6], "span": {"from": 9}}]}
SOFT = {"rules": [{"rule": "bias", "layers": "all", "experts": [0, 2], "amount": 2.0, "span": "prompt"}]}
ANSWER_ONLY = {"rules": [{"rule": "off", "layers": "all", "experts": [1, 4, 6], "span": "generation"}]}


@pytest.fixture(scope="module")
def address():
    def load():
        return Served.of(tiny_olmoe(), character_tokenizer(), {"name": "tiny"})

    with serve_in_background(load, limits=Limits(prompt_positions=60)) as address:
        assert address.engine.wait_ready(60)
        yield address


@pytest.fixture
def client(address):
    return connect(address.url, address.token)


def along(client, profile, prompt=PROMPT, **wishes):
    *_, end = client.generate(
        prompt, steering=profile, compare=True, positions=True, max_new_tokens=2, **wishes
    )
    return end


def plain(profile, prompt=PROMPT):
    """Log-probabilities (S, V) in float64 and executed experts by layer, of one forward pass of one model."""
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad(), Steering(profile["rules"]).applied(model), record_routing(model) as routing:
        logprobs_SV = model(ids).logits[0].double().log_softmax(-1)
        return ids[0], logprobs_SV, {str(layer): routing.ids(layer).tolist() for layer in range(3)}


@pytest.mark.parametrize("profile", [OFF, LATER, SOFT], ids=["off", "later", "soft"])
def test_kl_log_probabilities_and_experts_are_those_of_two_plain_passes(client, profile):
    end = along(client, profile)
    ids, base_SV, base_experts = plain({"rules": []})
    _, steered_SV, steered_experts = plain(profile)
    kl = (base_SV.exp() * (base_SV - steered_SV)).sum(-1)
    told = end["prompt_positions"]
    assert [event["position"] for event in told] == list(range(1, len(ids)))
    assert [event["token_id"] for event in told] == ids[1:].tolist()
    assert "".join(event["token"] for event in told) == PROMPT
    assert [event["kl"] for event in told] == pytest.approx(kl[:-1].tolist(), abs=1e-5)
    assert max(event["kl"] for event in told) > 0.01
    for side, own_SV, experts in (("base", base_SV, base_experts), ("steered", steered_SV, steered_experts)):
        expected = own_SV[:-1].gather(-1, ids[1:, None]).squeeze(-1).tolist()
        assert [event["logprob"][side] for event in told] == pytest.approx(expected, abs=1e-5)
        for event in told:
            before = event["position"] - 1
            assert event["experts"][side] == {
                layer: [e for e in rows[before] if e >= 0] for layer, rows in experts.items()
            }
    for event in told:
        before = event["position"] - 1
        differ = [
            layer
            for layer in base_experts
            if set(base_experts[layer][before]) != set(steered_experts[layer][before])
        ]
        assert event["changed"] == differ
    assert end["prompt_note"] is None


def test_rules_on_generated_tokens_leave_the_prompt_exactly_as_it_is(client):
    told = along(client, ANSWER_ONLY)["prompt_positions"]
    assert [event["kl"] for event in told] == [0.0] * (len(PROMPT))
    assert not any(event["changed"] for event in told)
    assert all(event["logprob"]["base"] == event["logprob"]["steered"] for event in told)


def test_nothing_differs_before_the_first_position_that_a_rule_acts_on(client):
    told = along(client, LATER)["prompt_positions"]
    assert {event["kl"] for event in told if event["position"] <= 9} == {0.0}
    assert next(event for event in told if event["position"] == 10)["kl"] > 0


@pytest.mark.parametrize("name", ["qwen2_moe", "deepseek_v3"])
def test_rounding_alone_is_no_difference(name):
    """In these families two equal sequences of one pass differ in the last bit."""
    model: Any = family(name)
    ids = torch.randint(5, model.config.vocab_size - 1, (1, 17), generator=torch.Generator().manual_seed(0))
    rules = [{"rule": "off", "layers": "all", "experts": [1], "span": "generation"}]
    rules += [{"rule": "off", "layers": "all", "experts": [2], "span": {"from": 9, "to": 12}}]
    served = Served.of(model, character_tokenizer())
    try:
        lane = Lane(served.live, [ids[0].tolist()] * 2, [None, Steering(rules)], keep=17)
        kept = lane.step().prompt
        assert kept is not None
        first = first_steered(served, Steering(rules), 17)
        told = [event for piece in along_prompt(served, ids[0].tolist(), kept, 0, first) for event in piece]
    finally:
        served.close()
    assert {event["kl"] for event in told[:9]} == {0.0}
    assert min(event["kl"] for event in told[9:12]) > 1e-9


def test_candidates_are_the_likeliest_of_both_models_at_each_position(client):
    told = along(client, OFF, candidates=3)["prompt_positions"]
    tokenizer = character_tokenizer()
    for side, (_, logprobs_SV, _) in {"base": plain({"rules": []}), "steered": plain(OFF)}.items():
        for event in told:
            top = logprobs_SV[event["position"] - 1].topk(3)
            rows = event["candidates"][side]
            assert [row[0] for row in rows] == top.indices.tolist()
            assert [row[2] for row in rows] == pytest.approx(top.values.tolist(), abs=1e-5)
            named = [tokenizer.decode([row[0]]) or f"⟨token {row[0]}⟩" for row in rows]
            assert [row[1] for row in rows] == named
    assert "candidates" not in along(client, OFF)["prompt_positions"][0]


def test_token_events_are_the_same_whether_the_prompt_is_asked_for_or_not(client):
    wishes = {"steering": OFF, "compare": True, "max_new_tokens": 6, "candidates": 2}
    *events, end = client.generate(PROMPT, **wishes)
    *again, more = client.generate(PROMPT, positions=True, **wishes)
    assert [event | {"kl": 0, "logprob": 0, "candidates": 0} for event in again] == [
        event | {"kl": 0, "logprob": 0, "candidates": 0} for event in events
    ]
    assert [event["kl"] for event in again] == pytest.approx([event["kl"] for event in events], abs=1e-5)
    assert set(more) - set(end) == {"prompt_positions", "prompt_note"}
    assert [more[side]["token_ids"] for side in ("base", "steered")] == [
        end[side]["token_ids"] for side in ("base", "steered")
    ]


def test_of_a_long_prompt_the_last_tokens_are_told_with_a_plain_word(client, monkeypatch):
    prompt = "The sun is a star. " * 5
    whole = plain(OFF, prompt)[0]
    end = along(client, OFF, prompt)
    assert [event["position"] for event in end["prompt_positions"]] == list(range(len(whole))[-60:])
    assert end["prompt_note"] == f"the last 60 of the prompt's {len(whole)} tokens are compared"

    monkeypatch.setattr(prompt_positions, "LOGIT_BYTES", 11 * 2 * 128 * 4)
    few = along(client, OFF, prompt)["prompt_positions"]
    assert few == end["prompt_positions"][-10:]


def test_pieces_give_the_same_as_the_whole(client, monkeypatch):
    whole = along(client, OFF, candidates=2)
    monkeypatch.setattr(prompt_positions, "PIECE_VALUES", 4 * 128)
    assert along(client, OFF, candidates=2) == whole


def test_without_a_comparison_there_is_nothing_to_tell(client):
    with pytest.raises(ServerError, match="needs `compare: true`") as refusal:
        client.generate(PROMPT, steering=OFF, positions=True)
    assert (refusal.value.status, refusal.value.field) == (400, "positions")
