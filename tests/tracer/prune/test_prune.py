# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false, reportIndexIssue=false
"""A pruned checkpoint loads in plain transformers and does what `keep_only` does; what can't be pruned is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import character_tokenizer, family, tiny_olmoe
from torch import nn
from transformers import AutoModelForCausalLM, OlmoeConfig, OlmoeForCausalLM
from zoo_pruned import keep_only

from moescope.tracer import find_routers
from moescope.tracer.prune import PruneError, mean_loss, pruned_checkpoint
from moescope.tracer.prune.merge import merged_experts

PROBE = [1, *range(40, 64)]


def _kept(model: torch.nn.Module, number: int, groups: int = 1) -> dict[int, list[int]]:
    rng = np.random.default_rng(0)
    kept = {}
    for spec in find_routers(model):
        size = spec.num_experts // groups
        kept[spec.layer] = sorted(
            int(g * size + e) for g in range(groups) for e in rng.permutation(size)[: number // groups]
        )
    return kept


class Listed(nn.Module):
    """Experts as older and custom checkpoints hold them: a module each, called in a loop."""

    def __init__(self, config: OlmoeConfig) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.num_experts, config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, self.num_experts, bias=False)
        self.experts = ListOfExperts(
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(self.num_experts)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        weights, ids = self.gate(rows).softmax(-1).topk(self.top_k)
        return self.experts(rows, ids, weights / weights.sum(-1, keepdim=True)).view_as(hidden)


class ListOfExperts(nn.ModuleList):
    def forward(self, hidden, top_k_index, top_k_weights):  # pyright: ignore[reportIncompatibleMethodOverride]
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            row, slot = (top_k_index == number).nonzero(as_tuple=True)
            out = out.index_add(0, row, torch.tanh(expert(hidden[row])) * top_k_weights[row, slot, None])
        return out


class ListedForCausalLM(OlmoeForCausalLM):
    def __init__(self, config: OlmoeConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = Listed(config)  # pyright: ignore[reportAttributeAccessIssue]
        self.post_init()


def listed() -> ListedForCausalLM:
    torch.manual_seed(0)
    return ListedForCausalLM(tiny_olmoe().config).eval()


def test_experts_in_a_list_are_cut_and_their_files_renumbered(tmp_path: Path) -> None:
    model = listed()
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    kept, ids = _kept(model, 5), torch.tensor([PROBE])
    with torch.no_grad(), keep_only(kept).applied(model):
        expected = model(input_ids=ids).logits
    pruned_checkpoint(model, character_tokenizer(), kept, tmp_path / "cut", probe=PROBE)
    loaded = ListedForCausalLM.from_pretrained(tmp_path / "cut").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert loaded.config.num_experts == 5
    written = load_file(tmp_path / "cut" / "model.safetensors")
    for layer, chosen in kept.items():
        at = f"model.layers.{layer}.mlp"
        assert torch.equal(written[f"{at}.gate.weight"], whole[f"{at}.gate.weight"][chosen])
        for new, old in enumerate(chosen):
            assert torch.equal(written[f"{at}.experts.{new}.bias"], whole[f"{at}.experts.{old}.bias"])
        assert f"{at}.experts.5.bias" not in written


def test_experts_in_a_list_are_merged_and_come_back() -> None:
    model, ids = listed(), torch.tensor([PROBE])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        mean = (
            model.model.layers[1].mlp.experts[3].weight * 0.25
            + model.model.layers[1].mlp.experts[7].weight * 0.75
        )
        label = [0, 1, 2, 3, 4, 5, 6, 3]
        uses = [1.0, 1, 1, 1, 1, 1, 1, 3]
        with merged_experts(model, dict.fromkeys(range(3), label), dict.fromkeys(range(3), uses)):
            found = model.model.layers[1].mlp.experts
            assert len(found) == model.config.num_experts == 7
            torch.testing.assert_close(found[3].weight, mean)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_groups_keep_as_many_experts_each(tmp_path: Path) -> None:
    model = copy.deepcopy(family("deepseek_v3"))
    groups = model.config.n_group
    experts = find_routers(model)[0].num_experts
    assert groups > 1
    least = max(find_routers(model)[0].top_k or 1, experts // 2)
    even = _kept(model, -(-least // groups) * groups, groups)
    uneven = {layer: list(range(len(chosen))) for layer, chosen in even.items()}
    with pytest.raises(PruneError, match="groups of experts"):
        pruned_checkpoint(model, character_tokenizer(), uneven, tmp_path / "no", probe=PROBE)
    pruned_checkpoint(model, character_tokenizer(), even, tmp_path / "cut", probe=PROBE)
    assert (tmp_path / "cut" / "config.json").is_file()


def test_what_can_not_be_pruned_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = tiny_olmoe()
    tokenizer = character_tokenizer()
    for kept, said in (
        ({0: [0, 1], 1: [0, 1, 2], 2: [0, 1]}, "all layers must have, and keep, the same number"),
        ({0: [0], 1: [0], 2: [0]}, "a token uses 2 experts"),
    ):
        with pytest.raises(PruneError, match=said):
            pruned_checkpoint(model, tokenizer, kept, tmp_path / "no", probe=PROBE)
    (tmp_path / "there").mkdir()
    with pytest.raises(PruneError, match="there already"):
        pruned_checkpoint(model, tokenizer, _kept(model, 4), tmp_path / "there", probe=PROBE)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert {spec.num_experts for spec in find_routers(model)} == {8}


def test_loss_by_hand() -> None:
    model = tiny_olmoe()
    ids = torch.tensor([PROBE])
    with torch.no_grad():
        by_hand = model(input_ids=ids, labels=ids).loss.item()
    (found,) = mean_loss(model, [PROBE])
    assert found[0] / found[1] == pytest.approx(by_hand, rel=1e-4)
    everyone = {layer: list(range(8)) for layer in range(3)}
    np.testing.assert_allclose(mean_loss(model, [PROBE], everyone), [found], rtol=1e-5)
    assert mean_loss(model, [[1]]).tolist() == [[0, 0]]


def test_a_pruning_by_a_trace_measures_its_cost_beside_random_choices(tmp_path: Path) -> None:
    from moescope.store import open_trace
    from moescope.store.read.token_filter import ALL_TOKENS
    from moescope.tracer import PromptSet, trace_prompts
    from moescope.tracer.prune.decide import Pruning

    model, tokenizer = tiny_olmoe(), character_tokenizer()
    rows = [
        {"id": f"{n}", "text": f"sentence number {n}", "language": "en" if n % 2 else "de"} for n in range(12)
    ]
    trace_prompts(model, tokenizer, PromptSet.from_rows(rows), tmp_path / "t")
    trace = open_trace(tmp_path / "t")
    options = {"keep": 0.5, "fit": None, "tokens": ALL_TOKENS, "seed": 0}
    with pytest.raises(PruneError, match="no reap: run moescope weigh"):
        Pruning(trace, score="reap", **options)
    pruning = Pruning(trace, score="gate", **options)
    with pytest.raises(PruneError, match="weights differ"):
        pruning.losses(tiny_olmoe(seed=1), 100, 2)
    found = pruning.losses(model, 100, 3)
    assert [row["language"] for row in found] == ["all", "de", "en"]
    assert found[0]["tokens"] == found[1]["tokens"] + found[2]["tokens"]
    assert found[0]["random least"] <= found[0]["random"] <= found[0]["random most"]
    card = pruning.card("some/model", "t", found)
    assert "Fitted on 6 prompts" in card
    pruning.write(model, tokenizer, tmp_path / "cut", card)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "cut").config.num_experts == 4
