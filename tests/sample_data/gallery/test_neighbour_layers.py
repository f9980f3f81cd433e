"""ReXMoE: which layer owns an expert, the schedule, and that own experts alone are the ordinary model."""

from typing import Any

import numpy as np
import pytest
import torch

from moescope.sample_data.gallery.kit import Experts
from moescope.sample_data.gallery.neighbour_layers import (
    EXPERTS,
    LAYERS,
    REACH,
    TOP,
    build,
    candidates,
    owners_of,
)


@pytest.mark.parametrize(("progress", "expected"), [(0, 64), (0.5, 160), (1, 256)])
def test_the_schedule_opens_the_neighbours_experts(progress, expected):
    assert candidates(64, 4, progress) == expected


def test_with_its_own_experts_alone_a_layer_is_the_ordinary_mixture_bit_for_bit():
    torch.manual_seed(1)
    model, gates = build(50, 12)
    ids = torch.randint(50, (3, 12))

    def ordinary(x, gate, experts):
        weights, chosen = (
            torch.nn.functional.linear(x, gate.score[:EXPERTS].clone()).softmax(-1).topk(TOP, dim=-1)
        )
        out = torch.zeros_like(x)
        dense = torch.zeros(*x.shape[:-1], EXPERTS).scatter(-1, chosen, weights)
        return out + torch.einsum("...e,...ed->...d", dense, experts.each(x))

    x = model.embed(ids) + model.place.weight[:12]
    layers: list[Any] = list(model.layers)
    for layer, gate in zip(layers, gates, strict=True):
        x = layer["attention"](x)
        experts = layer["moe"].own
        assert isinstance(experts, Experts)
        x = x + ordinary(layer["norm"](x), gate, experts)
    assert torch.equal(model(ids), model.head(x))


def test_the_reuse_matrix_is_that_of_the_events(made):
    trace = made("neighbour_layers")
    counted = np.zeros((LAYERS, LAYERS), int)
    for spec in trace.routers:
        owners = [owner for owner in owners_of(spec.layer) for _ in range(EXPERTS)]
        for event in trace.events(layer=spec.layer).to_pylist():
            for expert in event["experts"]:
                counted[spec.layer, owners[expert]] += 1
    found = {(row["layer"], row["owner"]): row for row in trace.view("reuse").to_pylist()}
    for layer in range(LAYERS):
        assert sorted(owner for at, owner in found if at == layer) == sorted(owners_of(layer))
        for owner in owners_of(layer):
            row = found[layer, owner]
            assert row["count"] == counted[layer, owner]
            assert row["use"] == pytest.approx(counted[layer, owner] / counted[layer].sum())
            assert row["even"] == pytest.approx(1 / REACH)
