"""Finding routers: names, layers, streams, and what is said where there is none."""

from typing import Any

import pytest
import torch
from tiny import NINE, family, tiny_olmoe
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from moescope.store import RouterSpec
from moescope.tracer import find_routers
from moescope.tracer.errors import CompiledModelError, NotMoEError, UnknownRouterError
from moescope.tracer.routers.naming import experts_per_token, layer_and_stack, scoring_of, stream_of


def test_a_router_says_where_it_is_and_how_it_scores():
    assert find_routers(tiny_olmoe())[1] == RouterSpec(
        layer=1,
        stream="decoder",
        num_experts=8,
        top_k=2,
        router="model.layers.1.mlp.gate",
        experts="model.layers.1.mlp.experts",
        scoring="softmax",
        steerable=True,
        found_by="experts call",
    )


@pytest.mark.parametrize("name", NINE)
def test_paths_lead_to_the_modules(name):
    model: Any = family(name)
    for spec in find_routers(model):
        assert spec.experts is not None
        router, experts = model.get_submodule(spec.router), model.get_submodule(spec.experts)
        assert router is not experts
        assert spec.found_by


def test_routers_come_in_the_order_of_their_layers_decoder_first():
    specs = find_routers(family("switch_transformers"))
    assert [(spec.stream, spec.layer) for spec in specs] == sorted(
        (spec.stream, spec.layer) for spec in specs
    )


def test_two_streams_of_one_layer_have_names_of_their_own():
    specs = find_routers(family("jetmoe"))
    assert [(s.layer, s.stream) for s in specs if s.layer == 0] == [(0, "decoder"), (0, "attention")]
    assert len({(s.layer, s.stream) for s in specs}) == len(specs)


def test_a_dense_model_is_refused_with_the_offer_of_emergent_experts():
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    dense = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))
    with pytest.raises(NotMoEError, match=r"not a Mixture-of-Experts model.*emergent_moe"):
        find_routers(dense)


class HomemadeMoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.chooser = nn.Linear(4, 3)


class GivenIds(nn.Module):
    def forward(self, hidden, expert_ids, weights):
        return hidden


class NoRouterBeside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = GivenIds()


def test_an_unknown_router_is_named_with_what_was_tried_and_how_to_declare_it():
    with pytest.raises(UnknownRouterError) as error:
        find_routers(nn.Sequential(HomemadeMoE()))
    for part in ("0 (HomemadeMoE)", "tried", "declare it by a RouterSpec", "DeclaredRouter(router="):
        assert part in str(error.value)
    with pytest.raises(
        UnknownRouterError, match=r"0\.experts \(GivenIds\).*tried: siblings named gate or router"
    ):
        find_routers(nn.Sequential(NoRouterBeside()))


def test_a_compiled_model_is_refused_with_how_to_turn_that_off():
    model: Any = tiny_olmoe()
    with pytest.raises(CompiledModelError, match=r"_orig_mod.*disable_compile=True"):
        find_routers(torch.compile(model))  # pyright: ignore[reportArgumentType]
    model.model.layers[1].compile()
    with pytest.raises(CompiledModelError):
        find_routers(model)


def test_every_error_fits_on_one_line():
    for broken in (nn.Linear(2, 2), nn.Sequential(HomemadeMoE()), nn.Sequential(NoRouterBeside())):
        with pytest.raises((NotMoEError, UnknownRouterError)) as error:
            find_routers(broken)
        assert "\n" not in str(error.value)


def test_the_outermost_list_counts_the_layers():
    block: nn.Module = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(1, 1)])})
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"block": nn.ModuleList([block])})})
    modules: dict[str, nn.Module] = dict(model.named_modules())
    assert layer_and_stack("encoder.block.0.layer.0", modules) == (0, "encoder")


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("model.layers.3.mlp.gate", "decoder"),
        ("encoder.block.1.layer.1.mlp.router", "encoder"),
        ("model.vision_tower.layers.2.mlp.gate", "vision"),
        ("model.layers.2.mlp.vision_moe.gate", "vision"),
        ("model.layers.2.mlp.text_moe.gate", "decoder"),
        ("talker.model.layers.2.mlp.gate", "talker"),
        ("model.layers.2.self_attention.experts.router", "attention"),
        ("model.audio_tower.layers.0.mlp.gate", "audio"),
        ("model.decoder.layers.0.router", "decoder"),
    ],
)
def test_streams_are_read_from_paths(path, stream):
    assert stream_of(path) == stream


def test_scoring_and_k_from_attributes_and_source():
    class Softmax(nn.Module):
        top_k = 3

        def forward(self, x):
            return x.softmax(-1).topk(3)

    class TopFirst(nn.Module):
        def forward(self, x):
            return x.topk(3)[0].softmax(-1)

    class Sigmoid(nn.Module):
        def forward(self, x):
            return x.sigmoid().topk(3)

    class Named(nn.Module):
        score_fn = nn.Sigmoid()

    class Silent(nn.Module):
        def forward(self, x):
            return x

    kinds = [scoring_of(cls(), nn.Module()) for cls in (Softmax, TopFirst, Sigmoid, Named, Silent)]
    assert kinds == ["softmax", "softmax_topk", "sigmoid", "sigmoid", "unknown"]
    assert experts_per_token([Softmax()], []) == 3
    assert experts_per_token([Silent()], [tiny_olmoe().config]) == 2
    assert experts_per_token([Silent()], []) is None
