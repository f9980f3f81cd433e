# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
"""Product-key routers on a small model of Monet's shape: sparse events per head, rows and columns masked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from moescope.tracer import Steering, find_routers, record_routing
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
        self.embed_tokens = nn.Embedding(32, WIDTH)
        self.layers = nn.ModuleList([Layer(n % 2 == 0) for n in range(4)])

    def forward(self, input_ids):
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
