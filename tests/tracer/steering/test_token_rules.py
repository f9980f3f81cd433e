# pyright: reportAttributeAccessIssue=false
"""Rules that read files or tokens (theta on `top_k`, `mask`, `prune_ratio` with `protect`) beside plain loops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from tiny import character_tokenizer, tiny_olmoe

from moescope.kernels.importance import token_importance
from moescope.store import open_trace
from moescope.tracer import Steering, find_routers, record_routing, trace_prompts
from moescope.tracer.errors import SteeringError

LAYERS, TEXTS = range(3), ["one two", "a longer text", "three"]


def batch_of(tokenizer, side):
    tokenizer.padding_side = side
    return dict(tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


def run(model, batch, steering=None):
    with (steering or Steering()).applied(model), record_routing(model) as routing, torch.no_grad():
        logits = model(**batch).logits
    return logits, routing


def real(batch):
    return batch["attention_mask"].bool()


@pytest.fixture(scope="module")
def model():
    return tiny_olmoe(num_experts_per_tok=3)


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer()


@pytest.fixture(scope="module")
def trace(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("mask") / "own"
    trace_prompts(model, tokenizer, TEXTS, path)
    return open_trace(path)


@pytest.fixture
def batch(tokenizer):
    return batch_of(tokenizer, "left")


def thetas(model, path, values, *, stacked=True):
    spec, width = find_routers(model)[0], model.config.hidden_size
    value_LED = {layer: values(spec.num_experts, width) for layer in LAYERS}
    tensors = {f"model.layers.{layer}.theta": value for layer, value in value_LED.items()}
    if not stacked:
        tensors = {
            f"layers.{layer}.experts.{e}": row.clone()
            for layer, value in value_LED.items()
            for e, row in enumerate(value)
        }
    save_file(tensors, path)
    return value_LED


@pytest.mark.parametrize("stacked", [True, False])
def test_theta_of_ones_is_plain_top_k(model, batch, tmp_path, stacked):
    path = tmp_path / "theta.safetensors"
    thetas(model, path, torch.ones, stacked=stacked)
    plain, _ = run(model, batch, Steering([{"rule": "top_k", "m": 1}]))
    scaled, _ = run(model, batch, Steering([{"rule": "top_k", "m": 1, "theta": str(path)}]))
    torch.testing.assert_close(scaled[real(batch)], plain[real(batch)], rtol=1e-4, atol=1e-5)


def test_main_experts_receive_the_input_times_the_mean_of_the_others_theta(model, batch, tmp_path):
    path = tmp_path / "theta.safetensors"
    torch.manual_seed(3)
    theta_ED = thetas(model, path, lambda e, d: 1 + 0.3 * torch.randn(e, d))[1]
    block, seen = model.model.layers[1].mlp, {}
    rule = {"rule": "top_k", "m": 1, "theta": str(path), "layers": [1], "renormalise": False}
    block_hook = block.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    experts_hook = block.experts.register_forward_pre_hook(lambda m, args: seen.update(before=args))
    try:
        run(model, batch, Steering([rule]))
    finally:
        block_hook.remove()
        experts_hook.remove()
    # The hook stands before the one that steers: it sees the router's own choice.
    hidden, ids, weights = seen["before"]
    out = seen["out"][0] if isinstance(seen["out"], tuple) else seen["out"]
    with torch.no_grad():
        for row in range(len(ids)):
            order = weights[row].argsort(descending=True).tolist()
            main, others = order[0], order[1:]
            gates = [float(weights[row, slot]) for slot in others]
            mean = sum(g * theta_ED[int(ids[row, slot])] for g, slot in zip(gates, others, strict=True))
            x = hidden[row] * mean / sum(gates)
            one = block.experts(x[None], ids[row, main].view(1, 1), torch.ones(1, 1))
            wanted = float(weights[row, main]) * one[0]
            torch.testing.assert_close(out.reshape(-1, out.shape[-1])[row], wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"layers.0": torch.ones(5, 4)}, "has no vectors of it"),
        ({f"layers.{layer}": torch.ones(5, 4) for layer in LAYERS}, "vectors of 5 experts, the layer"),
        ({"layers.0.theta": torch.ones(4)}, "is not valid"),
        ({"layers.0.experts.1": torch.ones(4)}, "needs vectors of one length for experts 0 to"),
        ({"theta": torch.ones(4, 4)}, "is not valid"),
        (None, "cannot be read"),
    ],
)
def test_a_theta_that_does_not_fit_is_named(model, tmp_path, tensors, message):
    path = tmp_path / "theta.safetensors"
    if tensors is not None:
        save_file(tensors, path)
    steering = Steering([{"rule": "top_k", "m": 1, "theta": str(path)}])
    assert any(message in problem for problem in steering.validate(model))
    with pytest.raises(SteeringError, match=message), steering.applied(model):
        pass


def write_mask(path, rows):
    columns = zip(*rows, strict=True)
    names = ("prompt", "position", "layer", "slot", "keep")
    pq.write_table(pa.table({name: list(values) for name, values in zip(names, columns, strict=True)}), path)
    return str(path)


def mask_rows(trace, keep):
    ids, lengths = trace.prompts()["prompt_id"].to_pylist(), {}
    for prompt in trace.tokens()["prompt_id"].to_pylist():
        lengths[prompt] = lengths.get(prompt, 0) + 1
    return [
        (prompt, position, layer, slot, keep(prompt, position, layer, slot))
        for prompt in ids
        for position in range(lengths[prompt])
        for layer in LAYERS
        for slot in range(3)
    ]


def test_a_mask_of_ones_changes_no_bit(model, batch, trace, tmp_path):
    path = write_mask(tmp_path / "ones.parquet", mask_rows(trace, lambda *key: 1))
    base, _ = run(model, batch)
    masked, _ = run(model, batch, Steering([{"rule": "mask", "mask": path, "trace": trace.url}]))
    assert torch.equal(masked, base)


def test_a_mask_drops_what_it_names_and_never_the_first_slot(model, batch, trace, tmp_path):
    rng = np.random.default_rng(0)
    rows = mask_rows(trace, lambda *key: int(rng.random() < 0.5))
    keep = {key[:4]: key[4] for key in rows}
    path = write_mask(tmp_path / "mask.parquet", rows)
    rule = {"rule": "mask", "mask": path, "trace": trace.url, "layers": [0], "renormalise": False}
    _, plain = run(model, batch)
    _, masked = run(model, batch, Steering([rule]))
    plain_ids, plain_weights = plain.ids(0), plain.weights(0)
    ids, weights = masked.ids(0), masked.weights(0)
    assert plain_weights is not None
    assert weights is not None
    prompts, length = trace.prompts()["prompt_id"].to_pylist(), batch["input_ids"].shape[1]
    some_first_is_0 = False
    for row in torch.nonzero(real(batch).reshape(-1)).flatten().tolist():
        sequence, at = divmod(row, length)
        position = at - int((~real(batch)[sequence]).sum())
        flags = [keep[prompts[sequence], position, 0, slot] for slot in range(3)]
        some_first_is_0 |= flags[0] == 0
        wanted = {
            int(plain_ids[row, slot]): float(plain_weights[row, slot])
            for slot in range(3)
            if slot == 0 or flags[slot]
        }
        got = {int(e): float(w) for e, w in zip(ids[row], weights[row], strict=True) if e >= 0}
        assert got == pytest.approx(wanted)
    assert some_first_is_0


def test_a_mask_that_does_not_fit_is_named(model, batch, trace, tmp_path):
    def problems(rows, trace_url=trace.url):
        path = write_mask(tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet", rows)
        rule = {"rule": "mask", "mask": path} | ({"trace": trace_url} if trace_url else {})
        return "; ".join(Steering([rule]).validate(model))

    first = trace.prompts()["prompt_id"][0].as_py()
    everywhere = [(first, 0, layer, 1, 1) for layer in LAYERS]
    assert problems(everywhere) == ""
    assert "names prompt 'nobody'" in problems([("nobody", 0, 0, 1, 0)])
    assert f"no token at position 99 of prompt {first!r}" in problems([(first, 99, 0, 1, 0)])
    assert "has no row of it" in problems([(first, 0, 0, 1, 0)])
    assert "needs `trace`" in problems(everywhere, None)
    assert "keep 0 to 7" in problems([(first, 0, 0, 1, 0), (first, 0, 0, 1, 7)])
    missing = Steering([{"rule": "mask", "mask": "nowhere.parquet", "trace": trace.url}]).validate(model)
    assert "nowhere.parquet cannot be read" in missing[0]


def test_protected_tokens_are_those_that_later_ones_rely_on(tokenizer):
    model = tiny_olmoe(attn_implementation="eager")
    batch, share = batch_of(tokenizer, "left"), 0.3
    layer, seen = model.model.layers[0], {}
    handles = [
        layer.self_attn.register_forward_hook(lambda m, args, out: seen.update(paid=out[1])),
        layer.mlp.experts.register_forward_pre_hook(lambda m, args: seen.update(x=args[0])),
    ]
    base = {"rule": "prune_ratio", "mu": 1e9, "layers": [0]}
    try:
        _, routing = run(model, batch, Steering([base | {"protect": share}]))
    finally:
        for handle in handles:
            handle.remove()
    _, all_pruned = run(model, batch, Steering([base]))
    number_T = (routing.ids(0) >= 0).sum(-1)
    assert set((all_pruned.ids(0) >= 0).sum(-1).tolist()) == {1}
    length = batch["input_ids"].shape[1]
    x_BSD = seen["x"].view(-1, length, seen["x"].shape[-1])
    for sequence, mask in enumerate(real(batch)):
        at = torch.nonzero(mask).flatten()
        paid = seen["paid"][sequence][:, at][:, :, at].detach().numpy()
        l1 = x_BSD[sequence][at].abs().sum(-1).detach().numpy()
        importance = token_importance(l1, paid)
        count = int(np.ceil(share * len(at)))
        wanted = set(np.argsort(-importance, kind="stable")[:count].tolist())
        kept = number_T.view(-1, length)[sequence][at]
        assert {i for i, n in enumerate(kept.tolist()) if n > 1} == wanted


def test_protection_without_attention_weights_says_what_to_do(model, batch):
    model.config._attn_implementation = "sdpa"
    steering = Steering([{"rule": "prune_ratio", "mu": 1.0, "protect": 0.1}])
    with pytest.raises(SteeringError, match="--attn-implementation eager"):
        run(model, batch, steering)


def test_a_threshold_lets_more_than_k_experts_run(model, batch):
    rule = {"rule": "temperature", "tau": 1.0, "threshold": 0.001}
    _, routing = run(model, batch, Steering([rule]))
    _, plain = run(model, batch)
    p_TE, ids = plain.probabilities(0), routing.ids(0)
    assert p_TE is not None
    for row in torch.nonzero(real(batch).reshape(-1)).flatten().tolist():
        wanted = set(torch.nonzero(p_TE[row] > 0.001).flatten().tolist())
        assert {e for e in ids[row].tolist() if e >= 0} == wanted
    assert int((ids >= 0).sum(-1).max()) > 3
