"""Routers declared as text: for the command line, the app and the server, which hold a model and no Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import character_tokenizer, tiny_olmoe
from torch import nn

from moescope.store import open_trace
from moescope.tracer import (
    DeclaredRouter,
    Steering,
    declare_routers,
    find_routers,
    record_routing,
    trace_prompts,
)
from moescope.tracer.errors import UnknownRouterError
from moescope.tracer.generate.live_model import LiveModel
from moescope.tracer.routers.declare import declared_texts, read_router

IDS = torch.arange(4, 20).reshape(2, 8)


class Choosing(nn.Module):
    """A gate of another make: ids first, then weights; nothing calls an experts module with them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, hidden, generator=torch.Generator().manual_seed(3)))

    def forward(self, hidden_TH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        top = torch.nn.functional.linear(hidden_TH, self.weight).softmax(-1).topk(2, dim=-1)
        return top.indices, top.values


class MoEBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gate = Choosing(hidden)
        self.parts = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(8))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        ids, weights = self.gate(rows)
        every = torch.stack([part(rows) for part in self.parts], 1)
        return (
            (every.gather(1, ids.unsqueeze(-1).expand(-1, -1, rows.shape[-1])) * weights.unsqueeze(-1))
            .sum(1)
            .view_as(hidden)
        )


@pytest.fixture
def model() -> Any:
    found: Any = tiny_olmoe()
    torch.manual_seed(1)
    for layer in found.model.layers:
        layer.mlp = MoEBlock(32)
    return found.eval()


def test_a_declaration_is_read_field_by_field():
    text = "model.layers.*.mlp.gate, experts=8, top_k=2, ids=0, weights=1, logits=scores, scoring=sigmoid"
    assert read_router(text) == DeclaredRouter(
        router="model.layers.*.mlp.gate",
        num_experts=8,
        top_k=2,
        ids=0,
        weights=1,
        logits="scores",
        scoring="sigmoid",
    )
    assert read_router("a,experts=8,weights=-1").weights == -1


@pytest.mark.parametrize(
    "text",
    ["", "gate", "gate,experts=8", "gate,ids=0", "gate,experts=0,ids=0", "gate,experts=²,ids=0", "gate,experts=8,ids",
     "gate,experts=8,ids=0,colour=red", ",experts=8,ids=0", "gate,experts=99999999999,ids=0"],
)  # fmt: skip
def test_what_is_no_declaration_says_how_to_write_one(text):
    with pytest.raises(UnknownRouterError, match="PATH,experts=E"):
        read_router(text)


def test_every_use_of_a_model_finds_what_was_declared_once(model, tmp_path):
    with pytest.raises(UnknownRouterError, match="--router"):
        find_routers(model)
    declare_routers(model, [read_router("model.layers.*.mlp.gate,experts=8,top_k=2,ids=0,weights=1")])
    assert [spec.layer for spec in find_routers(model)] == [0, 1, 2]
    seen = []
    handle = model.model.layers[1].mlp.gate.register_forward_hook(lambda m, a, output: seen.append(output[0]))
    with torch.no_grad(), record_routing(model) as routing:
        model(IDS)
    handle.remove()
    assert torch.equal(routing.ids(1), seen[0])
    trace_prompts(model, character_tokenizer(), ["Hi"], tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    assert [spec.found_by for spec in trace.routers] == ["declared"] * 3
    assert [read_router(text) for text in trace.manifest.settings["declared"]] == [
        read_router("model.layers.*.mlp.gate,experts=8,top_k=2,ids=0,weights=1")
    ]
    with LiveModel(model) as live:
        _, routed = live.forward([Steering([{"rule": "off", "experts": [3]}])], same=True, input_ids=IDS)
        assert all((ids != 3).all() for ids in routed.values())
        assert len(routed) == 3


def test_a_declaration_that_fits_nothing_is_refused_at_once(model):
    with pytest.raises(UnknownRouterError, match="no module of this model matches"):
        declare_routers(model, [read_router("layers.*.gate,experts=8,ids=0")])
    with pytest.raises(UnknownRouterError, match="--router"):
        find_routers(model)


@pytest.mark.parametrize(
    "text", ["a.*.gate,num_experts=8,top_k=2,ids=0,weights=1", "g,num_experts=4,weights=-1,stream=task"]
)
def test_a_declaration_goes_into_the_manifest_and_comes_back(text):
    model: Any = nn.Module()
    model._moescope_declared = (read_router(text),)
    assert read_router(declared_texts(model)[0]) == read_router(text)


def test_a_function_is_no_text():
    model: Any = nn.Module()
    model._moescope_declared = (DeclaredRouter(router="a", num_experts=4, top_k=1, ids=lambda call: None),)
    assert declared_texts(model) == []
