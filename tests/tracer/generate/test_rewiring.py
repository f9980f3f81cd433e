"""Vectors learned during a generation: when, on what, from where; and that nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.tracer import Steering, find_routers, learn_vector
from moescope.tracer.generate import generate
from moescope.tracer.generate.rewiring import Rewiring

PROMPT = "Where is the library?"
OFF = Steering([{"rule": "off", "layers": [1], "experts": [2]}])
Setting = tuple[Any, Any]


@pytest.fixture(scope="module")
def setting() -> Setting:
    model = tiny_olmoe()
    model.generation_config.eos_token_id = None
    return model, character_tokenizer()


def rewired(setting: Setting, new=12, prompt=PROMPT, **how):
    """The answer, and what was learned after how many tokens."""
    seen: list[tuple[int, Steering]] = []
    steering = how.pop("steering", None)
    rewire = Rewiring(on_learn=lambda done, vectors: seen.append((done, vectors)), **how)
    (answer,) = generate(*setting, prompt, max_new_tokens=new, rewire=rewire, steering=steering)
    return answer, seen


def test_no_steps_give_the_same_tokens(setting: Setting):
    answer, seen = rewired(setting, steps=0, renew_every=5)
    assert seen == []
    assert answer == generate(*setting, PROMPT, max_new_tokens=12)[0]


def test_once_is_generation_under_the_vector_of_the_prompt(setting: Setting):
    answer, seen = rewired(setting, lr=5.0, renew_every=0)
    assert [done for done, _ in seen] == [0]
    vectors = learn_vector(setting[0], PROMPT, tokenizer=setting[1], lr=5.0)
    assert seen[0][1] == vectors
    assert answer == generate(*setting, PROMPT, max_new_tokens=12, steering=vectors)[0]
    assert answer != generate(*setting, PROMPT, max_new_tokens=12)[0]


@pytest.mark.parametrize("reset", [False, True])
def test_renewal_learns_on_all_that_was_written_since(setting: Setting, reset):
    model, tokenizer = setting
    answer, seen = rewired(setting, lr=5.0, renew_every=5, reset=reset)
    assert [done for done, _ in seen] == [0, 5, 10]
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    before = None
    for done, vectors in seen:
        context = torch.cat([prompt, torch.tensor([answer.token_ids[:done]], dtype=torch.long)], 1)
        assert vectors == learn_vector(model, context, lr=5.0, start=None if reset else before)
        with vectors.applied(model), torch.no_grad():
            assert int(model(context).logits[0, -1].argmax()) == answer.token_ids[done]
        before = vectors


def test_prompts_do_not_share_vectors_and_nothing_stays(setting: Setting):
    other = "~~{}~~ 0123"
    how = Rewiring(lr=5.0, renew_every=5)
    both = generate(*setting, [PROMPT, other], max_new_tokens=8, rewire=how)
    alone = [generate(*setting, text, max_new_tokens=8, rewire=how)[0] for text in (PROMPT, other)]
    assert both == alone
    assert not [m for m in setting[0].modules() if m._forward_hooks or m._forward_pre_hooks]
    assert all(p.grad is None for p in setting[0].parameters())
    assert len(find_routers(setting[0])) == 3


def test_a_steering_acts_while_vectors_are_learned(setting: Setting):
    answer, seen = rewired(setting, lr=5.0, renew_every=0, steering=OFF)
    with OFF.applied(setting[0]):
        vectors = learn_vector(setting[0], PROMPT, tokenizer=setting[1], lr=5.0)
    assert seen[0][1] == vectors
    assert answer == generate(*setting, PROMPT, max_new_tokens=12, steering=OFF + vectors)[0]


def test_an_answer_that_ends_is_not_learned_on(setting: Setting):
    model = setting[0]
    ids = generate(*setting, PROMPT, max_new_tokens=4)[0].token_ids
    model.generation_config.eos_token_id = ids[2]
    try:
        answer, seen = rewired(setting, lr=0.0, renew_every=2, new=20)
    finally:
        model.generation_config.eos_token_id = None
    assert answer.finished
    assert answer.token_ids == ids[: len(answer.token_ids)]
    assert len(seen) <= 2
