"""Traces of routing that is not k experts of one decoder for every token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, find_routers, record_routing, trace_prompts
from moescope.tracer.errors import TracerError
from moescope.tracer.run.captured_batch import id_type

TEXTS = ["Where is it?", "a", "some more words"]


def prompts():
    return PromptSet.from_rows([{"id": f"p{i}", "text": text} for i, text in enumerate(TEXTS)])


def recorded(model, text, layer, steering=None):
    """Experts and weights of one prompt alone, empty slots left out."""
    ids = character_tokenizer()(text, return_tensors="pt")["input_ids"]
    with torch.no_grad(), record_routing(model, steering=steering) as routing:
        model(input_ids=ids)
    experts, weights = routing.ids(layer), routing.weights(layer)
    assert weights is not None
    used = [row >= 0 for row in experts]
    return (
        [row[keep].tolist() for row, keep in zip(experts, used, strict=True)],
        [row[keep].tolist() for row, keep in zip(weights, used, strict=True)],
    )


def test_a_k_that_varies_by_token_survives(tmp_path):
    model = tiny_olmoe(num_experts_per_tok=4)
    steering = Steering([{"rule": "top_p", "layers": "all", "amount": 0.6}])
    capture = ("ids", "weights", "probability")
    options = {"steering": steering, "weight_type": "float32", "batch_size": 2, "capture": capture}
    trace_prompts(model, character_tokenizer(), prompts(), tmp_path / "t", **options)
    trace = open_trace(tmp_path / "t")
    widths = set()
    for number, text in enumerate(TEXTS):
        for layer in range(3):
            experts, weights = recorded(model, text, layer, steering)
            rows = trace.events(prompt_id=f"p{number}", layer=layer).sort_by("position").to_pydict()
            assert rows["experts"] == experts
            for ours, theirs in zip(rows["weights"], weights, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-6)
            assert [len(row) for row in rows["probability"]] == [len(row) for row in experts]
            widths |= {len(row) for row in experts}
    assert len(widths) > 1


def test_only_the_routers_that_were_asked_for_are_traced(tmp_path):
    model = tiny_olmoe()
    (one,) = [spec for spec in find_routers(model) if spec.layer == 1]
    trace_prompts(model, character_tokenizer(), prompts(), tmp_path / "t", routers=[one])
    trace = open_trace(tmp_path / "t")
    assert [spec.layer for spec in trace.routers] == [1]
    assert trace.events()["layer"].unique().to_pylist() == [1]
    experts, _ = recorded(model, TEXTS[0], 1)
    assert trace.events(prompt_id="p0").sort_by("position")["experts"].to_pylist() == experts


def test_a_dense_layer_has_no_router_and_shared_numbers_stay_the_models(tmp_path):
    model = family("deepseek_v3")
    trace_prompts(model, character_tokenizer(), prompts(), tmp_path / "t")
    layers = open_trace(tmp_path / "t").events()["layer"].unique().to_pylist()
    assert sorted(layers) == [spec.layer for spec in find_routers(model)]
    assert 0 not in layers


def test_an_encoder_decoder_model_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(TracerError, match="record_routing"):
        trace_prompts(family("switch_transformers"), character_tokenizer(), prompts(), tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("experts", [1, 254, 255, 256, 32767, 32768, 2**20])
def test_ids_are_narrow_and_leave_room_for_an_empty_slot(experts):
    ids = torch.tensor([0, experts - 1, -1]).to(id_type(experts)).numpy()
    empty = 255 if ids.dtype == np.uint8 else -1
    assert ids.tolist() == [0, experts - 1, empty]
    assert experts - 1 != empty
