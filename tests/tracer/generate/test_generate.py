"""Generated tokens: what is recorded of them is what the experts executed, step by step, for each prompt alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, executed, family, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import PromptSet, find_routers, trace_prompts
from moescope.tracer.generate import generate

TEXTS = ["Hello there", "a", "What now? ", "12345 67", "zz"]
NEW = 6


def prompts():
    return PromptSet.from_rows([{"id": f"p{i}", "text": text} for i, text in enumerate(TEXTS)])


def stopping(model, stop):
    """The same model, ending a sequence at a token that it often generates."""
    model.generation_config.eos_token_id = [2, stop]
    return model


def alone(model, tokenizer, text):
    """New tokens of one prompt by plain greedy decoding, one full forward pass a token."""
    ids = tokenizer(text)["input_ids"]
    stop = model.generation_config.eos_token_id
    new: list[int] = []
    while len(new) < NEW and (not new or new[-1] not in stop):
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
    return ids, new


@pytest.fixture(scope="module")
def model():
    model, tokenizer = tiny_olmoe(3), character_tokenizer()
    first = [alone(stopping(model, -1), tokenizer, text)[1] for text in TEXTS]
    # A token that ends some sequences early and others not, so that finished ones are padded in the batch.
    stop = first[0][2]
    return stopping(model, stop)


@pytest.fixture(scope="module")
def trace(model, tmp_path_factory):
    url = tmp_path_factory.mktemp("generated") / "t"
    options = {"max_new_tokens": NEW, "weight_type": "float32"}
    trace_prompts(model, character_tokenizer(), prompts(), url, **options)
    return open_trace(url)


def test_some_sequences_end_early_in_the_tested_batch(model):
    lengths = {len(alone(model, character_tokenizer(), text)[1]) for text in TEXTS}
    assert len(lengths) > 1


def test_tokens_are_those_of_each_prompt_alone(model, trace):
    tokenizer = character_tokenizer()
    for number, text in enumerate(TEXTS):
        ids, new = alone(model, tokenizer, text)
        rows = trace.tokens(f"p{number}").to_pydict()
        # The last token was generated but never fed, so no expert has seen it.
        assert rows["token_id"] == ids + new[:-1]
        assert rows["position"] == list(range(len(ids) + len(new) - 1))
        assert rows["phase"] == ["prefill"] * len(ids) + ["decode"] * (len(new) - 1)
        row = trace.prompts({"prompt_id": [f"p{number}"]}).to_pylist()[0]
        assert row["generated"] == tokenizer.decode(new, skip_special_tokens=True)


def test_events_are_what_the_experts_execute_on_the_same_tokens(model, trace):
    tokenizer = character_tokenizer()
    for spec in find_routers(model):
        for number, text in enumerate(TEXTS):
            ids, new = alone(model, tokenizer, text)
            whole = torch.tensor([ids + new[:-1]])
            seen = executed(model, [str(spec.experts)], lambda whole=whole: model(input_ids=whole))
            ((experts, weights),) = seen[str(spec.experts)]
            rows = trace.events(prompt_id=f"p{number}", layer=spec.layer).sort_by("position").to_pydict()
            np.testing.assert_array_equal(rows["experts"], experts.numpy())
            np.testing.assert_allclose(rows["weights"], weights.numpy(), atol=1e-5)


def test_rollups_tell_prompt_and_generated_tokens_apart(trace):
    tokens = trace.tokens().to_pandas()
    for layer in range(3):
        rollups = trace.rollups(layer)
        for number in range(len(TEXTS)):
            own = tokens[tokens["prompt_id"] == f"p{number}"]
            for phase, name in enumerate(("prefill", "decode")):
                rows = (rollups.prompt_R == number) & (rollups.phase_R == phase)
                assert rollups.tokens_R[rows].sum() == (own["phase"] == name).sum()
                total = rollups.probability_sum[rows].sum()
                assert total == pytest.approx((own["phase"] == name).sum(), abs=1e-3)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_other_families_decode_as_their_experts_execute(tmp_path, name):
    model, tokenizer = family(name), character_tokenizer()
    options = {"max_new_tokens": 4, "weight_type": "float32"}
    trace_prompts(model, tokenizer, prompts(), tmp_path / "t", **options)
    trace = open_trace(tmp_path / "t")
    for number in range(len(TEXTS)):
        ids = trace.tokens(f"p{number}")["token_id"].to_pylist()
        for spec in find_routers(model):
            run = lambda ids=ids: model(input_ids=torch.tensor([ids]))  # noqa: E731
            ((experts, weights),) = executed(model, [str(spec.experts)], run)[str(spec.experts)]
            rows = trace.events(prompt_id=f"p{number}", layer=spec.layer).sort_by("position").to_pydict()
            np.testing.assert_array_equal(rows["experts"], experts.numpy())
            np.testing.assert_allclose(rows["weights"], weights.numpy(), atol=1e-5)


def test_sampling_is_repeated_by_its_seed_and_kept_in_the_manifest(model, tmp_path):
    answers = {}
    for number, seed in enumerate([5, 5, 6]):
        options = {"max_new_tokens": NEW, "temperature": 1.5, "top_p": 0.9, "seed": seed}
        trace_prompts(model, character_tokenizer(), prompts(), tmp_path / str(number), **options)
        trace = open_trace(tmp_path / str(number))
        answers[number] = trace.prompts()["generated"].to_pylist()
        assert options.items() <= trace.manifest.settings.items()
    assert answers[0] == answers[1] != answers[2]


def test_generate_continues_several_prompts_in_one_batch(model):
    tokenizer = character_tokenizer()
    answers = generate(model, tokenizer, TEXTS, max_new_tokens=NEW)
    for text, answer in zip(TEXTS, answers, strict=True):
        _, new = alone(model, tokenizer, text)
        assert (answer.prompt, answer.token_ids) == (text, new)
        assert answer.finished == (new[-1] in model.generation_config.eos_token_id)


def test_generate_leaves_the_random_state_alone(model):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    generate(model, character_tokenizer(), "hi", max_new_tokens=3, temperature=1.0, seed=9)
    assert torch.equal(torch.rand(1), expected)
