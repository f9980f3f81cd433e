"""The training code against transformers and torch, and its resumption to the last bit."""

import dataclasses
import json

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM


def mini_model(build, *, layers=2, experts=4):
    shape = dataclasses.replace(build.recipe.MINI.model, layers=layers, experts=experts)
    return build.train.new_model(dataclasses.replace(build.recipe.MINI, model=shape))


def test_sorted_experts_equal_transformers_own(build):
    """Values and all gradients, with more experts than the tokens can reach."""
    model, gradients = mini_model(build, experts=32), []
    ids = torch.randint(0, 400, (1, 9))
    for kind in ("eager", "sorted"):
        model.set_experts_implementation("eager") if kind == "eager" else build.fast_experts.use_for(model)
        model.zero_grad()
        hidden = model.model(ids, use_cache=False).last_hidden_state
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).square().sum().backward()
        gradients.append({"hidden": hidden.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()
                                                        if p.grad is not None})  # fmt: skip
    eager, own = gradients
    assert eager.keys() == own.keys()
    assert any("gate_up_proj" in name for name in own)
    for name in eager:
        torch.testing.assert_close(own[name], eager[name], rtol=1e-4, atol=1e-5)


def test_fused_cross_entropy_equals_torch(build):
    torch.manual_seed(0)
    results = []
    hidden, head, targets = torch.randn(600, 16), torch.randn(50, 16), torch.randint(0, 50, (600,))
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = (build.losses.FusedCrossEntropy.apply(h, w, targets) if fused
                else torch.nn.functional.cross_entropy(h @ w.T, targets))  # fmt: skip
        (3 * loss).backward()
        results.append((loss.detach(), h.grad, w.grad))
    torch.testing.assert_close(*results)


def test_balance_loss_sees_layers_that_cancel_out(build):
    """Two layers that each use half of the experts look even when pooled; they must not."""
    left = torch.tensor([[9.0, 8.0, 0.0, 0.0]]).expand(10, 4)
    balance, z, chosen = build.losses.router_losses((left, left.flip(1)), 2)
    assert balance.item() == pytest.approx(2.0, abs=1e-2)
    assert z.item() == pytest.approx(float(torch.logsumexp(left[0], 0)) ** 2)
    assert chosen.tolist() == [[10, 10, 0, 0], [0, 0, 10, 10]]
    assert build.losses.router_losses((torch.zeros(10, 4),), 2)[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8), (1, 16, 16)])
def test_muon_update_is_nearly_the_polar_factor(build, shape):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    update = build.muon.orthogonalize(stack)
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.4
    assert singular.max() < 1.3
    cosine = (update * (u @ vh)).sum() / update.norm() / (u @ vh).norm()
    assert cosine > 0.95


def test_training_learns(build, made):
    losses = pd.read_csv(made / "train_log.csv", header=None)[2]
    assert losses.iloc[-5:].mean() < losses.iloc[:5].mean() - 0.5


def test_a_stopped_training_goes_on_exactly(build, made, tmp_path):
    """Stopped after every step, and in one piece: the same weights to the last bit."""
    mini = build.recipe.MINI
    recipe = dataclasses.replace(mini, training=dataclasses.replace(mini.training, steps=5))
    ends = []
    for name, stops in (("whole", 0), ("pieces", 3)):
        work = tmp_path / name
        work.mkdir()
        for file in ("corpus.parquet", "tokens.npz"):
            (work / file).symlink_to(made / file)
        for number in range(stops):
            assert build.train.train(recipe, work, minutes=0).step == number + 1
        run = build.train.train(recipe, work)
        assert run.step == 5
        ends.append(run.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_saved_model_is_an_ordinary_one(build, made):
    config = json.loads((made / "model" / "config.json").read_text())
    assert config["model_type"] == "olmoe"
    assert not any("implementation" in key for key in config)
    model = AutoModelForCausalLM.from_pretrained(made / "model", dtype=torch.float32)
    state = torch.load(made / "checkpoint.pt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name].bfloat16().float(), rtol=0, atol=0)
