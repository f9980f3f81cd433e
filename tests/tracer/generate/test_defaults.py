"""What a checkpoint's own generation defaults may do to an answer: nothing but begin and end it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe
from transformers import GenerationConfig

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, trace_prompts
from moescope.tracer.generate import generate

NEW = 10
TEXT = "Choose Insert"


def answer(model: Any, **options: Any) -> list[int]:
    return generate(model, character_tokenizer(), TEXT, max_new_tokens=NEW, **options)[0].token_ids


def greedy(model: Any) -> list[int]:
    """The likeliest token each time, from whole passes."""
    ids = character_tokenizer()(TEXT)["input_ids"]
    for _ in range(NEW):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-NEW:]


@pytest.fixture(scope="module")
def expected() -> list[int]:
    return greedy(tiny_olmoe())


@pytest.mark.parametrize(
    "name",
    [
        "no_repeat_ngram_size", "num_return_sequences", "prompt_lookup_num_tokens", "repetition_penalty",
        "suppress_tokens", "forced_eos_token_id", "bad_words_ids", "do_sample", "num_beams", "max_length",
    ],
)  # fmt: skip
def test_no_default_changes_the_likeliest_continuation(expected, name):
    model: Any = tiny_olmoe()
    wishes: dict[str, Any] = {
        "no_repeat_ngram_size": 1, "num_return_sequences": 2, "prompt_lookup_num_tokens": 3, "repetition_penalty": 9.0,
        "suppress_tokens": expected[:1], "forced_eos_token_id": 2, "bad_words_ids": [expected[:1]], "do_sample": True,
        "num_beams": 4, "max_length": 15,
    }  # fmt: skip
    sampled = {"do_sample": True} if name == "num_return_sequences" else {}
    own = model.generation_config = GenerationConfig(eos_token_id=2, **sampled, **{name: wishes[name]})
    assert answer(model) == expected
    assert model.generation_config is own


def test_a_suppressed_token_would_have_mattered(expected):
    model: Any = tiny_olmoe()
    ids = torch.tensor([character_tokenizer()(TEXT)["input_ids"]])
    model.generation_config = GenerationConfig(suppress_tokens=expected[:1])
    assert model.generate(ids, max_new_tokens=1, do_sample=False)[0, -1] != expected[0]


def test_the_end_of_a_text_is_still_the_checkpoints(expected):
    model: Any = tiny_olmoe()
    model.generation_config = GenerationConfig(eos_token_id=[2, expected[3]])
    assert answer(model) == expected[: expected.index(expected[3]) + 1]


@pytest.mark.parametrize("span", ["prompt", "generation"])
def test_a_checkpoint_without_a_cache_is_steered_and_traced_as_with_one(tmp_path, span):
    steering = Steering([{"rule": "keep_only", "experts": [0, 1], "span": span}])
    rows = PromptSet.from_rows([TEXT, "Click the button"])
    found = {}
    for name, cached in (("with", True), ("without", False)):
        model: Any = tiny_olmoe()
        model.config.use_cache = cached
        model.generation_config.use_cache = cached
        trace_prompts(
            model, character_tokenizer(), rows, tmp_path / name, max_new_tokens=4, steering=steering
        )
        events = open_trace(tmp_path / name).events()
        found[name] = answer(model, steering=steering), events["experts"].to_pylist()
    assert found["with"] == found["without"]
    assert found["with"][0] != greedy(tiny_olmoe())
