# pyright: reportArgumentType=false
"""The noise floor: what it counts, against a plain count; and that a run leaves the model as it was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.app.cli.commands import run
from moescope.store import open_trace
from moescope.store.noise import noise_of
from moescope.store.schema import RouterKey
from moescope.tracer import PromptSet
from moescope.tracer.noise.measure import measure_noise
from moescope.tracer.noise.runs import compared

TEXTS = ["Choose Insert", "Click the button", "Hi", "A longer text than the others", "Numbers 1 2 3", "End"]
KEY = RouterKey("decoder", 2)


def decision(ids: list[list[int]], weights: list[list[float]]) -> Any:
    return {KEY: (np.array(ids), np.array(weights, np.float32))}


def test_sets_order_and_weights_are_counted_apart():
    a = decision([[1, 2], [3, 4], [5, 6], [7, -1]], [[0.6, 0.4], [0.5, 0.5], [0.7, 0.3], [1.0, 0.0]])
    b = decision([[1, 2], [4, 3], [5, 8], [7, -1]], [[0.6, 0.4], [0.5, 0.25], [0.7, 0.3], [1.0, 0.0]])
    found = compared("batch", "a", "b", [a, a], [a, b])
    assert (found.events, found.sets, found.order) == (8, 1, 1)
    # 7 weights of the equal run; of the other 2 + 2 + 1 + 1 are of experts that both chose.
    assert (found.weights, found.weights_changed) == (7 + 6, 1)
    assert found.largest_weight_change == 0.25
    assert (found.low, found.high) == (None, None)


def test_weights_are_compared_as_they_are_stored():
    a, b = (decision([[1]], [[value]]) for value in (0.5, 0.5 + 1e-5))
    found = compared("batch", "a", "b", [a], [b])
    assert found.weights_changed == 0
    assert found.largest_weight_change == pytest.approx(1e-5, rel=0.1)


def test_the_floor_of_a_model_and_the_model_afterwards():
    model: Any = tiny_olmoe()
    before, threads = model.config._attn_implementation, torch.get_num_threads()
    prompts = PromptSet.from_rows(TEXTS)
    noise = measure_noise(
        model, character_tokenizer(), prompts, reload=lambda dtype: tiny_olmoe().to(getattr(torch, dtype))
    )
    tokens = sum(map(len, TEXTS)) + len(TEXTS)
    assert (noise.dtype, noise.prompts, noise.tokens) == ("float32", 6, tokens)
    repeat = noise.of("repeat")
    assert repeat is not None
    assert (repeat.events, repeat.sets, repeat.order, repeat.weights_changed) == (3 * tokens, 0, 0, 0)
    batch, dtype = noise.of("batch"), noise.of("dtype")
    assert batch is not None
    assert dtype is not None
    assert batch.largest_weight_change < 1e-5 < dtype.largest_weight_change
    assert dtype.weight_share > 0.3 > batch.weight_share
    assert dtype.low is not None
    assert dtype.high is not None
    assert dtype.low <= dtype.set_share <= dtype.high
    assert {one.cause for one in noise.variations} >= {"repeat", "batch", "attention", "dtype"}
    assert (model.config._attn_implementation, torch.get_num_threads()) == (before, threads)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_varied_is_noted():
    noise = measure_noise(tiny_olmoe(), character_tokenizer(), PromptSet.from_rows(TEXTS[:1]))
    assert noise.of("batch") is None
    assert noise.of("dtype") is None
    assert {note.partition(":")[0] for note in noise.notes} >= {"batch", "dtype"}
    assert all(one.low is None for one in noise.variations)


def test_the_commands_measure_and_record_it(tmp_path, capsys):
    tiny_olmoe().save_pretrained(tmp_path / "m")
    character_tokenizer().save_pretrained(tmp_path / "m")
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(TEXTS))
    model = str(tmp_path / "m")
    assert run(["doctor", model, "--noise", str(prompts), "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["noise"]
    assert told["prompts"] == 6
    options = ["--out", str(tmp_path / "t"), "--noise", "5", "--reproducible", "--device", "cpu"]
    assert run(["trace", model, str(prompts), *options]) == 0
    trace = open_trace(tmp_path / "t")
    noise = noise_of(trace)
    assert noise is not None
    assert noise.prompts == 5
    settings = trace.manifest.settings
    assert (settings["attention"], settings["batch_size"]) == ("eager", 1)
    assert (
        run(
            [
                "trace",
                model,
                str(prompts),
                "--out",
                str(tmp_path / "u"),
                "--reproducible",
                "--batch-size",
                "4",
            ]
        )
        == 2
    )
    assert not (tmp_path / "u").exists()
