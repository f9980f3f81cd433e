"""From where on a steering makes a difference, and that nothing differs before it on any processor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe

from moescope.tracer import PromptSet, Steering
from moescope.tracer.evaluate.forced_passes import ForcedPasses, make_work
from moescope.tracer.generate.lanes import Lane
from moescope.tracer.generate.live_model import LiveModel
from moescope.tracer.generate.rounding import log_probabilities, rounding_floor
from moescope.tracer.routers.find import find_routers
from moescope.tracer.steering.reach import first_acting
from moescope.tracer.tokens.encode import Encoder


@pytest.mark.parametrize(
    ("span", "first"),
    [("all", 0), ("prompt", 0), ("generation", 7), (3, 3), ({"from": 9}, 9), ({"from": 9, "phase": "prompt"}, math.inf),
     ({"from": 2, "to": 5, "phase": "generation"}, math.inf), ({"from": 2, "to": 9, "phase": "generation"}, 7)],
)  # fmt: skip
def test_the_first_token_that_a_rule_acts_on(span, first):
    specs = find_routers(tiny_olmoe())
    rules = Steering([{"rule": "off", "experts": [3], "span": span}]).rules
    assert first_acting(rules, specs, 7) == first
    neutral = Steering([{"rule": "bias", "experts": [1], "amount": 0.0}]).rules
    assert first_acting(neutral, specs, 7) == math.inf
    assert first_acting((*neutral, *rules), specs, 7) == first


@pytest.mark.parametrize("name", ["olmoe", "qwen2_moe", "deepseek_v3"])
def test_forced_passes_differ_only_from_there_on(name):
    """Rows that are steered move their neighbours by a last bit; that is no effect."""
    model, tokenizer = family(name), character_tokenizer()
    rows = [{"text": "Choose it", "completion": " now"}, {"text": "Click the button"}, {"text": "Hi"}]
    encoded = Encoder(tokenizer).prompts(list(PromptSet.from_rows(rows)))
    work = make_work(encoded, 0)
    steering = Steering([{"rule": "off", "experts": [1, 2], "span": "generation"}])
    with LiveModel(model) as live:
        passes = ForcedPasses(live)
        base = passes.base(work)
        found = passes.steered(work, steering, base)
        neutral = passes.steered(work, Steering([{"rule": "scale", "experts": "all", "beta": 1.0}]), base)
    assert (neutral.kl_N == 0).all()
    assert np.array_equal(neutral.logprob_N, base.result.logprob_N)
    untouched = work.sequence_N > 0
    untouched |= work.position_N <= 10  # the token at 10 is the first that is steered
    assert (found.kl_N[untouched] == 0).all()
    assert (found.kl_N[~untouched] > 1e-9).all()
    later = (work.batch.sequence_T == 0) & (work.batch.position_T >= 10)
    assert not found.changed_LT[:, ~later].any()
    assert found.changed_LT[:, later].any()


def test_lanes_are_one_until_a_rule_acts():
    model, ids = tiny_olmoe(), list(range(4, 14))
    steering = Steering([{"rule": "off", "experts": [1, 2], "span": {"from": 12}}])
    with LiveModel(model) as live:
        lane = Lane(live, [ids] * 2, [None, steering], same_until=12)
        for position in range(9, 15):
            step = lane.step()
            same = torch.equal(step.logprobs_BV[0], step.logprobs_BV[1])
            assert same == (position < 12)
            assert all(rows[0] == rows[1] for rows in step.experts.values()) or position >= 12
            lane.feed([5, 5])


def test_a_log_softmax_adds_no_noise_of_its_own():
    """Equal logits that were rounded otherwise by the softmax alone; in float32 the KL would be about 1e-7."""
    logits = torch.randn(64, 50_000, generator=torch.Generator().manual_seed(0)) * 3
    p, q = log_probabilities(logits), log_probabilities(logits + 1.0)
    assert float((p.exp() * (p - q)).sum(-1).abs().max()) < 1e-12


def test_the_floor_is_below_any_effect_and_not_far_from_float32():
    model: Any = tiny_olmoe()
    with LiveModel(model) as live:
        assert 0 <= rounding_floor(live, list(range(4, 30))) < 1e-9
    half: Any = tiny_olmoe().bfloat16()
    with LiveModel(half) as live:
        assert 0 <= rounding_floor(live, list(range(4, 30))) < 0.1
