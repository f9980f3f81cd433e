# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
"""Product-key routers on a small model of Monet's shape: sparse events per head, rows, columns and pairs masked."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from tiny import character_tokenizer
from torch import nn

from moescope.store import open_trace
from moescope.tracer import Steering, find_routers, record_routing, trace_prompts
from moescope.tracer.errors import SteeringError

HEADS, KEYS, WIDTH = 2, 6, 16


class MonetRouter(nn.Module):
    """Two linear layers, a normalisation without weights, the keys above a quantile, a softmax over them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(moe_heads=HEADS, moe_experts=KEYS, moe_topk=2)
        self.w1 = nn.Linear(WIDTH, HEADS * KEYS, bias=False)
        self.w2 = nn.Linear(WIDTH, HEADS * KEYS, bias=False)

    def _axis(self, z):
        n = (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True)
        least = n.amax(-1, keepdim=True).clamp_max(0.4)
        return torch.where(n >= least, z, -1e10).softmax(-1)

    def forward(self, x):
        return tuple(self._axis(w(x).unflatten(-1, (HEADS, KEYS)).float()) for w in (self.w1, self.w2))


class MonetMoHDE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Linear(WIDTH, KEYS * 4)
        self.v = nn.Linear(KEYS * 4, WIDTH, bias=False)

    def forward(self, x, g1, g2):
        inner = self.u(x).unflatten(-1, (KEYS, -1)).relu().square()
        return self.v(torch.einsum("btim,bthi,bthj->btjm", inner, g1, g2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, routes: bool) -> None:
        super().__init__()
        self.moe = MonetMoHDE()
        if routes:
            self.router = MonetRouter()

    def forward(self, x, before):
        gates = self.router(x) if hasattr(self, "router") else before
        return x + self.moe(x, *gates), gates


class Model(nn.Module):
    """Two groups of two layers, each with one router."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(128, WIDTH)
        self.layers = nn.ModuleList([Layer(n % 2 == 0) for n in range(4)])

    def get_input_embeddings(self):
        return self.embed_tokens

    def forward(self, input_ids, attention_mask=None, **others):
        x, gates = self.embed_tokens(input_ids), None
        for layer in self.layers:
            x, gates = layer(x, gates)
        return x


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model().eval()


IDS = torch.arange(10).view(2, 5)


def run(model, *rules):
    seen = []
    hook = model.layers[0].moe.register_forward_pre_hook(lambda m, args: seen.append(args[1:]))
    try:
        with Steering(rules).applied(model), record_routing(model) as routing, torch.no_grad():
            out = model(IDS)
    finally:
        hook.remove()
    return out, routing, seen[0]


def test_each_axis_of_a_router_is_found_with_its_heads(model):
    specs = find_routers(model)
    assert [(s.layer, s.stream) for s in specs] == [
        (0, "rows"),
        (0, "columns"),
        (2, "rows"),
        (2, "columns"),
    ] or {(s.layer, s.stream) for s in specs} == {(0, "rows"), (0, "columns"), (2, "rows"), (2, "columns")}
    assert {(s.num_experts, s.top_k) for s in specs} == {(HEADS * KEYS, None)}
    assert {s.found_by for s in specs} == {"adapter monet"}


def test_events_are_the_chosen_keys_of_each_head(model):
    _, routing, gates = run(model)
    for stream, gate in zip(("rows", "columns"), gates, strict=True):
        dense = gate.reshape(10, -1)
        ids, weights = routing.ids(0, stream), routing.weights(0, stream)
        assert ids.shape[1] < HEADS * KEYS
        for token in range(10):
            wanted = {e: float(dense[token, e]) for e in range(HEADS * KEYS) if dense[token, e] > 0}
            got = {int(e): float(w) for e, w in zip(ids[token], weights[token], strict=True) if e >= 0}  # pyright: ignore[reportOptionalSubscript]
            assert got == pytest.approx(wanted)


def test_masked_rows_and_columns_add_nothing(model):
    base, routing, gates = run(model)
    row, column = int(routing.ids(0, "rows")[0, 0]), int(routing.ids(0, "columns")[1, 0])
    rules = [
        {"rule": "zero", "layers": [0], "experts": [row], "stream": "rows"},
        {"rule": "zero", "layers": [0], "experts": [column], "stream": "columns"},
    ]
    out, _, steered = run(model, *rules)
    wanted = [gate.clone().reshape(10, -1) for gate in gates]
    wanted[0][:, row], wanted[1][:, column] = 0, 0
    for got, gate in zip(steered, wanted, strict=True):
        assert torch.equal(got.reshape(10, -1), gate)
    assert not torch.allclose(out, base)
    # Both layers of the group use the steered decision.
    with torch.no_grad():
        x = model.embed_tokens(IDS)
        g1, g2 = (gate.reshape(2, 5, HEADS, KEYS) for gate in wanted)
        for layer in model.layers[:2]:
            x = x + layer.moe(x, g1, g2)
        for layer in model.layers[2:]:
            gates = layer.router(x) if hasattr(layer, "router") else gates
            x = x + layer.moe(x, *gates)
    torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-6)


def test_neutral_rules_change_no_bit_and_logits_can_not_be_edited(model):
    base, _, _ = run(model)
    out, _, _ = run(model, {"rule": "scale", "experts": "all", "amount": 1.0, "stream": "rows"})
    assert torch.equal(out, base)
    with pytest.raises(SteeringError, match="logits of layer 0 cannot be edited"):
        run(model, {"rule": "off", "layers": [0], "experts": [0], "stream": "rows"})


def without(layer, x, g1, g2, masked):
    """What a layer's experts add, pair by pair, without some (head, row, column)."""
    inner = layer.moe.u(x).unflatten(-1, (KEYS, -1)).relu().square()
    column = layer.moe.v.weight.view(WIDTH, KEYS, -1)
    pairs = set(product(range(HEADS), range(KEYS), range(KEYS))) - masked
    return sum(
        (g1[:, :, h, i] * g2[:, :, h, j]).unsqueeze(-1) * (inner[:, :, i] @ column[:, j].T)
        for h, i, j in pairs
    )


@pytest.mark.parametrize("span", ["all", {"from": 1, "to": 3}])
def test_a_masked_pair_is_taken_out_and_nothing_else(model, span):
    base, routing, gates = run(model)
    row, column = int(gates[0][1, 2, 1].argmax()), int(gates[1][1, 2, 1].argmax())
    rule = {
        "rule": "zero",
        "layers": [0],
        "stream": "rows",
        "experts": [KEYS + row],
        "columns": [KEYS + column, 0],
    }
    out, steered, after = run(model, rule | {"span": span})
    # The decision stays as it is: only what the pair adds is gone.
    assert all(torch.equal(a, b) for a, b in zip(after, gates, strict=True))
    assert torch.equal(steered.ids(0, "rows"), routing.ids(0, "rows"))
    acting = torch.tensor([span == "all" or 1 <= at < 3 for at in range(5)]).view(1, 5, 1)
    with torch.no_grad():
        x, gates = model.embed_tokens(IDS), None
        for number, layer in enumerate(model.layers):
            gates = layer.router(x) if hasattr(layer, "router") else gates
            masked = {(1, row, column)} if number < 2 else set()
            x = x + torch.where(acting, without(layer, x, *gates, masked), without(layer, x, *gates, set()))
    torch.testing.assert_close(out, x, rtol=1e-4, atol=1e-5)
    assert float((out - base).abs().max()) > 100 * float((out - x).abs().max())


def test_pairs_of_other_heads_and_other_models_are_refused(model):
    rule = {"rule": "zero", "layers": [0], "stream": "rows", "experts": [0], "columns": [KEYS]}
    with pytest.raises(SteeringError, match="no row and column of the rule belong to one head"):
        run(model, rule)
    with pytest.raises(SteeringError, match="only product keys have pairs"):
        run(model, rule | {"stream": "columns"})
    with pytest.raises(SteeringError, match="must be a list of numbers"):
        Steering([rule | {"columns": "all"}])
    profile = Steering([rule])
    assert Steering.from_json(profile.to_json()).rules == profile.rules


def test_a_trace_holds_the_few_keys_of_each_head(model, tmp_path):
    trace_prompts(model, character_tokenizer(), ["Hi!", "Five"], tmp_path / "t", weight_type="float32")
    trace = open_trace(tmp_path / "t")
    assert {(r.layer, r.stream, r.num_experts) for r in trace.routers} == {
        (layer, stream, HEADS * KEYS) for layer in (0, 2) for stream in ("rows", "columns")
    }
    ids = [row["token_id"] for row in trace.tokens("1").to_pylist()]
    with torch.no_grad():
        dense = model.layers[0].router(model.embed_tokens(torch.tensor([ids])))[1].reshape(len(ids), -1)
    events = [
        r
        for r in trace.events().to_pylist()
        if (r["prompt_id"], r["layer"], r["stream"]) == ("1", 0, "columns")
    ]
    assert len(events) == len(ids)
    for event in events:
        gate = dense[event["position"]]
        assert set(event["experts"]) == set(gate.nonzero().flatten().tolist())
        assert event["weights"] == pytest.approx(gate[event["experts"]].tolist(), rel=1e-5)
