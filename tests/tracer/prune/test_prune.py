# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
"""A pruned checkpoint loads in plain transformers and does what `keep_only` does; what can't be pruned is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe
from transformers import AutoModelForCausalLM

from moescope.tracer import Steering, find_routers
from moescope.tracer.prune import PruneError, mean_loss, pruned_checkpoint

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


@pytest.mark.parametrize("name", ["olmoe", "mixtral", "qwen3_moe", "granitemoe", "gpt_oss", "phimoe"])
def test_it_loads_in_transformers_and_equals_keep_only(name: str, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_olmoe() if name == "olmoe" else family(name))
    experts = find_routers(model)[0].num_experts
    left = max(experts // 2, find_routers(model)[0].top_k or 1)
    kept = _kept(model, left)
    ids = torch.tensor([PROBE]) % model.config.get_text_config().vocab_size
    rules = [{"rule": "keep_only", "layers": [layer], "experts": chosen} for layer, chosen in kept.items()]
    with torch.no_grad(), Steering(rules).applied(model):
        expected = model(input_ids=ids).logits
    pruned_checkpoint(model, character_tokenizer(), kept, tmp_path / "cut", probe=ids[0].tolist(), card="cut")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    with torch.no_grad():
        found = loaded(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert {spec.num_experts for spec in find_routers(loaded)} == {left}
    assert left in json.loads((tmp_path / "cut" / "config.json").read_text()).values()
    assert (tmp_path / "cut" / "README.md").read_text() == "cut"


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
        ({0: [0, 1], 1: [0, 1, 2], 2: [0, 1]}, "every layer must keep as many"),
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
