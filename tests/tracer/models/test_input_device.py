"""Where input goes when accelerate keeps the embeddings elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import trace_prompts
from moescope.tracer.generate import generate
from moescope.tracer.generate.live_model import LiveModel
from moescope.tracer.models.input_device import input_device

ROWS = [{"id": "a", "text": "Choose Insert", "choices": [" x", " y"], "answer": 0}, {"id": "b", "text": "Hi"}]


def seen(model: Any, path: Any) -> tuple[Any, ...]:
    trace_prompts(model, character_tokenizer(), ROWS, path, max_new_tokens=3)
    trace = open_trace(path)
    return (
        trace.events()["experts"].to_pylist(),
        trace.prompts()["generated"].to_pylist(),
        generate(model, character_tokenizer(), "Choose", max_new_tokens=4)[0].token_ids,
    )


@pytest.mark.parametrize("where", ["host", "disk"])
def test_offloaded_embeddings_trace_and_generate_as_plain_ones(tmp_path, where):
    accelerate = pytest.importorskip("accelerate")
    model: Any = tiny_olmoe()
    if where == "host":
        model = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        model = accelerate.disk_offload(model, tmp_path / "weights", execution_device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.device.type == "meta"
    assert input_device(model) == torch.device("cpu")
    assert seen(model, tmp_path / "offloaded") == seen(tiny_olmoe(), tmp_path / "plain")
    with LiveModel(model) as live:
        assert live.device == torch.device("cpu")


def test_an_embedding_without_a_weight_is_no_obstacle():
    model: Any = tiny_olmoe()
    model.model.embed_tokens = torch.nn.Identity()
    assert input_device(model) == torch.device("cpu")
