"""Multiple choice: log-likelihoods equal those of each choice alone, whatever the batch, and give the accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, trace_prompts
from moescope.tracer.evaluate.forced_passes import ForcedPasses, make_work
from moescope.tracer.evaluate.tally import Tally, scored_sequences
from moescope.tracer.generate.live_model import LiveModel
from moescope.tracer.tokens.encode import Encoder

ROWS = [
    {"id": "a", "text": "2 + 2 = ", "choices": ["3", "four", "5"], "answer": 1},
    {"id": "b", "text": "A longer question than the other?", "choices": [" yes", " no, never"], "answer": 0},
    {"id": "c", "text": "no choice here"},
    {"id": "d", "text": "open", "choices": ["x", "y"]},
]


def alone(model, tokenizer, text, choice):
    """Log-likelihood of a choice after its text, from one forward pass of its own."""
    before = len(tokenizer(text)["input_ids"])
    ids = torch.tensor([tokenizer(text + choice)["input_ids"]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[place - 1, ids[0, place]]) for place in range(before, ids.shape[1]))


@pytest.mark.parametrize("batch_tokens", [16, 8192])
def test_choices_are_scored_as_each_would_be_alone(tmp_path, batch_tokens):
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    summary = trace_prompts(
        model, tokenizer, PromptSet.from_rows(ROWS), tmp_path / "t", batch_tokens=batch_tokens
    )
    found = {row["prompt_id"]: row for row in open_trace(tmp_path / "t").prompts().to_pylist()}
    rights = []
    for row in ROWS:
        if "choices" not in row:
            assert found[row["id"]]["choice_logprobs"] is None
            continue
        expected = [alone(model, tokenizer, row["text"], choice) for choice in row["choices"]]
        np.testing.assert_allclose(found[row["id"]]["choice_logprobs"], expected, atol=1e-4)
        if "answer" in row:
            rights.append(int(np.argmax(expected)) == row["answer"])
            assert found[row["id"]]["correct"] == rights[-1]
        else:
            assert found[row["id"]]["correct"] is None
    assert summary.accuracy == pytest.approx(np.mean(rights))


def test_choices_add_nothing_to_the_events(tmp_path):
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    for name, rows in (("with", ROWS), ("without", [{"id": r["id"], "text": r["text"]} for r in ROWS])):
        trace_prompts(model, tokenizer, PromptSet.from_rows(rows), tmp_path / name)
    first, second = (open_trace(tmp_path / name).events() for name in ("with", "without"))
    assert first.equals(second)


def test_a_steering_changes_the_scores_too(tmp_path):
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    steering = Steering([{"rule": "off", "layers": "all", "experts": [0, 1, 2]}])
    scores = {}
    for name, profile in (("base", None), ("steered", steering)):
        trace_prompts(model, tokenizer, PromptSet.from_rows(ROWS[:1]), tmp_path / name, steering=profile)
        scores[name] = open_trace(tmp_path / name).prompts()["choice_logprobs"].to_pylist()[0]
    assert not np.allclose(scores["base"], scores["steered"])
    steered = open_trace(tmp_path / "steered")
    assert steered.manifest.steering is not None
    assert not {0, 1, 2} & {expert for row in steered.events()["experts"].to_pylist() for expert in row}


@pytest.mark.parametrize("span", ["prompt", "generation"])
def test_spans_mean_the_same_in_a_trace_and_in_an_evaluation(tmp_path, span):
    """Choices and completions follow the prompt, though one pass reads them with it."""
    model, tokenizer = tiny_olmoe(), character_tokenizer()
    steering = Steering([{"rule": "keep_only", "layers": "all", "experts": [0, 1, 2], "span": span}])
    rows = [
        {"id": "a", "text": "Choose it", "choices": [" now", " Bananas"], "answer": 0},
        {"id": "b", "text": "Click the", "completion": " button there"},
        {"id": "c", "text": "Nothing follows"},
    ]
    prompts = PromptSet.from_rows(rows)
    trace_prompts(model, tokenizer, prompts, tmp_path / "t", steering=steering)
    trace = open_trace(tmp_path / "t")
    steered = trace.prompts()["choice_logprobs"].to_pylist()[0]
    with LiveModel(model) as live:
        sequences = scored_sequences(list(prompts), Encoder(tokenizer), tokenizer)
        work = make_work([one.encoded for one in sequences], 0)
        tally = Tally(sequences, len(live.keys))
        tally.add(np.arange(len(sequences)), work, ForcedPasses(live).alone(work, steering).result)
    assert steered == pytest.approx(tally.choice_logprobs(3)[0], abs=1e-4)
    for name, length in {"a": 10, "b": 10, "c": 16}.items():  # with the start token
        kept = {True: True, False: True}
        for row in trace.events(prompt_id=name).to_pylist():
            kept[(row["position"] < length) == (span == "prompt")] &= max(row["experts"]) <= 2
        assert kept[True]
        assert not kept[False] or (name != "b" and span == "prompt")
