"""Quantised checkpoints: hooks work as long as the router is a module of its own, whatever holds the experts.

The checkpoints are made here by hand, from the formats' definitions. Without a GPU transformers takes MXFP4 and FP8
back to bfloat16 while it loads; packed 4-bit weights are run where bitsandbytes is installed.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import family, tiny_olmoe
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GptOssConfig,
    GptOssForCausalLM,
    OlmoeForCausalLM,
)

from moescope.tracer import Steering, find_routers, record_routing
from moescope.tracer.errors import SteeringError, UnknownRouterError
from moescope.tracer.hooks.selfcheck import self_check

IDS = torch.arange(4, 18).reshape(2, 7)
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
BLOCK = 32

pytestmark = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")


def mxfp4(weight_EIO: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of 32 inputs, two values a byte, with a power of two each."""
    rows = weight_EIO.transpose(1, 2).unflatten(-1, (-1, BLOCK))
    exponent = rows.abs().amax(-1).clamp_min(1e-9).log2().floor() - 2
    code = ((rows / 2 ** exponent[..., None])[..., None] - FP4).abs().argmin(-1).to(torch.uint8)
    return (code[..., 0::2] | (code[..., 1::2] << 4)).contiguous(), (exponent + 127).to(torch.uint8)


def fp8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3, with the inverse scale of each 16 × 16 block."""
    blocks = weight_OI.unflatten(0, (-1, 16)).unflatten(-1, (-1, 16))
    scale = blocks.abs().amax((1, 3), keepdim=True) / 448
    return (blocks / scale).reshape(weight_OI.shape).to(torch.float8_e4m3fn), scale[:, 0, :, 0]


def write(folder: Path, config: dict[str, Any], method: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def gpt_oss_in_mxfp4(folder: Path) -> Any:
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=8, num_experts_per_tok=2, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, architectures=["GptOssForCausalLM"],
    )  # fmt: skip
    weights: dict[str, Tensor] = {}
    for name, value in GptOssForCausalLM(config).state_dict().items():
        if name.endswith(("gate_up_proj", "down_proj")):
            weights[f"{name}_blocks"], weights[f"{name}_scales"] = mxfp4(value)
        else:
            weights[name] = value.to(torch.bfloat16)
    return write(folder, config.to_dict() | {"dtype": "bfloat16"}, {"quant_method": "mxfp4"}, weights)


def olmoe_in_fp8(folder: Path) -> Any:
    tiny_olmoe().save_pretrained(folder)
    weights: dict[str, Tensor] = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if name.endswith("proj.weight"):
            weights[name], weights[f"{name}_scale_inv"] = fp8(value)
        else:
            weights[name] = value.to(torch.bfloat16)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    method = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    return write(folder, config, method, weights)


def in_four_bits(folder: Path) -> Any:
    tiny_olmoe(hidden_size=64).save_pretrained(folder)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    return OlmoeForCausalLM.from_pretrained(folder, quantization_config=four).eval()


def check(model: Any) -> None:
    """Traced as executed, and steered as told."""
    routers = find_routers(model)
    with torch.no_grad(), self_check(model) as seen:
        model(input_ids=IDS)
    assert all(router.executed and router.explained for router in seen.routers)
    rules = [{"rule": "off", "experts": [1]}, {"rule": "on", "experts": [3]}]
    with torch.no_grad(), record_routing(model, steering=Steering(rules)) as routing:
        model(input_ids=IDS)
    for spec in routers:
        assert (routing.ids(spec.layer) != 1).all()
        assert (routing.ids(spec.layer) == 3).any(-1).all()


@pytest.mark.parametrize("make", [gpt_oss_in_mxfp4, olmoe_in_fp8])
def test_checkpoints_that_are_taken_back_to_bfloat16(tmp_path, make):
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "model"), dtype=torch.bfloat16).eval()
    assert not any("scale" in name or "blocks" in name for name, _ in model.named_parameters())
    check(model)


def by_torchao(model: Any) -> str:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

    quantize_(model, Int8WeightOnlyConfig())
    return "Int8Tensor"


def by_quanto(model: Any) -> str:
    from optimum.quanto import freeze, qint8, quantize  # pyright: ignore[reportMissingImports]

    quantize(model, weights=qint8)
    freeze(model)
    return "WeightQBytesTensor"


@pytest.mark.parametrize("name", ["olmoe", "dbrx"])
@pytest.mark.parametrize(("package", "how"), [("torchao", by_torchao), ("optimum", by_quanto)])
def test_weights_of_eight_bits(name, package, how):
    """DBRX's router holds a linear layer, which becomes one of eight bits too."""
    pytest.importorskip(package)
    model = copy.deepcopy(family(name))
    kind = how(model)
    kinds = {type(weight).__name__ for weight in model.parameters()}
    assert kind in kinds
    check(model)


class Packed(nn.Module):
    """A linear layer that runs by a kernel of its own, as packed weights do."""

    def __init__(self, weight: Tensor, name: str) -> None:
        super().__init__()
        self.name = name
        if name == "weight":
            self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        else:
            self.register_buffer(name, weight.detach().clone())

    def forward(self, hidden: Tensor) -> Tensor:
        return (hidden.unsqueeze(-2) * getattr(self, self.name)).sum(-1)


def dbrx_with_packed_routers(name: str) -> Any:
    model: Any = copy.deepcopy(family("dbrx"))
    for block in model.transformer.blocks:
        block.ffn.router.layer = Packed(block.ffn.router.layer.weight, name)
    return model


def test_a_router_that_runs_by_its_own_kernel_is_traced_and_refused_to_steering():
    model = dbrx_with_packed_routers("weight")
    with torch.no_grad(), self_check(model) as seen:
        model(input_ids=IDS)
    assert all(router.executed and router.explained for router in seen.routers)
    steering = Steering([{"rule": "off", "experts": [1]}])
    message = r"blocks\.0\.ffn\.router could not be edited.*quantised or replaced"
    with pytest.raises(SteeringError, match=message), torch.no_grad(), steering.applied(model):
        model(input_ids=IDS)


def test_a_router_whose_weight_cannot_be_read_is_named_as_one():
    """GPTQ's linear layers have a `qweight` and no `weight`."""
    message = (
        r"experts \(DbrxExperts\).* router \(DbrxRouter\) .* holds Packed\): is it quantised\?.*declare it"
    )
    with pytest.raises(UnknownRouterError, match=message):
        find_routers(dbrx_with_packed_routers("qweight"))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_packed_four_bit_weights(tmp_path):
    model = in_four_bits(tmp_path / "model")
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Linear4bit" in kinds
    assert model.model.layers[0].mlp.gate.weight.dtype == torch.float32
    check(model)
