"""A model whose layers lie in several places, as `device_map` spreads it: here some on the CPU, some on the disk.

accelerate replaces each module's forward by one that fetches its weights and moves its inputs, which is what it does
for several GPUs too; between calls the weights of a layer elsewhere are on no device at all.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe

from moescope.store import open_trace
from moescope.tracer import PromptSet, Steering, find_routers, trace_prompts
from moescope.tracer.hooks.selfcheck import self_check

accelerate = pytest.importorskip("accelerate")
PROMPTS = PromptSet.from_rows(
    [{"id": str(i), "text": text} for i, text in enumerate(["one", "two and two", "x"])]
)


def spread(folder):
    model = tiny_olmoe()
    places = {"model.layers.1": "disk", "model.layers.2": "disk"}
    places |= dict.fromkeys(
        ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"), "cpu"
    )
    model = accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))
    assert model.model.layers[1].mlp.gate.weight.device.type == "meta"
    assert model.model.layers[0].mlp.gate.weight.device.type == "cpu"
    return model


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("new_tokens", [0, 4])
def test_the_trace_is_that_of_the_model_in_one_place(tmp_path, new_tokens, steered):
    steering = Steering([{"rule": "off", "experts": [1]}]) if steered else None
    found = []
    for name, model in (("whole", tiny_olmoe()), ("spread", spread(tmp_path / "weights"))):
        trace_prompts(
            model,
            character_tokenizer(),
            PROMPTS,
            tmp_path / name,
            max_new_tokens=new_tokens,
            steering=steering,
        )
        trace = open_trace(tmp_path / name)
        found.append(
            (trace.events(), np.asarray(trace.rollup_arrays(2).probability_sum).tolist(), trace.tokens("1"))
        )
    assert found[0] == found[1]


def test_its_routers_are_found_and_its_own_execution_agrees(tmp_path):
    model = spread(tmp_path)
    assert find_routers(model) == find_routers(tiny_olmoe())
    with torch.no_grad(), self_check(model) as check:
        model(torch.arange(4, 18).reshape(2, 7))
    assert all(router.executed and router.explained for router in check.routers)
