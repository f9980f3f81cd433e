"""`moescope doctor`: passes a sound model, and names what is wrong with an unsound one."""

import pytest
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from moescope.store import sample_dir
from moescope.tracer import load_model
from moescope.tracer.diagnose import diagnose


@pytest.fixture(scope="module")
def tokenizer():
    return load_model(sample_dir() / "model").tokenizer


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=8192, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    made = OlmoeForCausalLM(config).eval()
    for layer in range(2):
        torch.nn.init.normal_(made.get_parameter(f"model.layers.{layer}.mlp.gate.weight"))
    return made


def test_a_sound_model_passes(model, tokenizer):
    found = diagnose(model, tokenizer)
    assert found.passed, found.problems
    assert [row["executed"] for row in found.rows] == ["yes", "yes"]
    assert [row["explained"] for row in found.rows] == ["yes", "yes"]
    assert found.lines[0].startswith("2 routers")


def test_a_model_whose_output_wavers_is_not_called_sound(model, tokenizer):
    model.lm_head.register_forward_hook(lambda module, args, output: output + torch.rand_like(output))
    found = diagnose(model, tokenizer)
    assert not found.passed
    assert "recording changes the model's output" in found.problems
