"""Routers that are not in transformers, declared and shown: one small module for each shape of decision.

They stand for T2MIR, MoDE, M³ViT, MENTOR, ReXMoE, AdvMoE, MixER, a two-expert gate, and dynamic pruning. Each
is traced, held against what it did, stored, read back, and shown in the heatmap: the numbers that are compared
are those of the figure's own cells.
"""

from typing import Any

import pytest
import torch
from torch import nn

from moescope.app.figures.routing_map import routing_map
from moescope.store import Trace
from moescope.tracer import Steering, find_routers, record_routing
from moescope.tracer.errors import TracerError, UnknownRouterError
from moescope.tracer.hooks.save import save_routing
from moescope.tracer.routers.declared import DeclaredRouter

torch.manual_seed(0)
WIDTH = 6


class Gate(nn.Module):
    """Top-k gate that returns (ids, weights, logits) and remembers what it said."""

    def __init__(self, experts: int, k: int, width: int = WIDTH) -> None:
        super().__init__()
        self.score, self.k = nn.Linear(width, experts, bias=False), k
        self.said: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.score(x)
        weights, ids = logits.softmax(-1).topk(self.k, dim=-1)
        self.said.append((ids.reshape(-1, self.k), weights.reshape(-1, self.k)))
        return ids, weights, logits


class Mixture(nn.Module):
    """A gate with its experts, mixed by hand."""

    def __init__(self, experts: int = 4, k: int = 2, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.gate = gate or Gate(experts, k)
        self.weight = nn.Parameter(torch.randn(experts, WIDTH, WIDTH) / 3)

    def forward(self, x: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        ids, weights, _ = self.gate(x if key is None else key)
        each = torch.einsum("...h,ehj->...ej", x, self.weight)
        return x + (each.gather(-2, ids.unsqueeze(-1).expand(*ids.shape, WIDTH)) * weights.unsqueeze(-1)).sum(
            -2
        )


def stack(*layers: nn.Module) -> Any:
    return nn.ModuleDict({"layers": nn.ModuleList(layers)})


TOP2: dict[str, Any] = {
    "num_experts": 4,
    "top_k": 2,
    "ids": 0,
    "weights": 1,
    "logits": 2,
    "scoring": "softmax",
}


def gate_at(router: str, **changes: Any) -> DeclaredRouter:
    return DeclaredRouter(router=router, **TOP2 | changes)


def heatmap(trace: Trace, stream: str = "decoder") -> dict[tuple[int, int], int]:
    """(layer, expert) → count, as the cells of the drawn routing map have it."""
    chart = routing_map(trace.view("load", stream=stream), "count").to_dict()
    cells = [rows for rows in chart["datasets"].values() if {"layer", "expert", "value"} <= {*rows[0]}]
    assert cells
    return {(row["layer"], row["expert"]): row["value"] for row in cells[0]}


def counted(said: list[tuple[torch.Tensor, torch.Tensor]], experts: int) -> list[int]:
    ids = torch.cat([ids for ids, _ in said]).flatten()
    return ids[ids >= 0].bincount(minlength=experts).tolist()


def test_two_streams_in_one_layer(tmp_path):
    """T2MIR: a token-wise and a task-wise mixture side by side."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.task = Mixture(), Mixture(3, 1)

        def forward(self, x):
            return self.token(x) + self.task(x.mean(1, keepdim=True))

    model = stack(Both(), Both())
    routers = [
        gate_at("layers.*.token.gate"),
        gate_at("layers.*.task.gate", stream="task", num_experts=3, top_k=1),
    ]
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        x = torch.randn(5, 7, WIDTH)
        for layer in model["layers"]:
            x = layer(x)
    assert [(s.layer, s.stream) for s in routing.routers] == [
        (0, "decoder"), (1, "decoder"), (0, "task"), (1, "task"),
    ]  # fmt: skip
    assert routing.ids(1, "task").shape == (5, 1)
    trace = save_routing(routing, tmp_path / "t", samples=[{"task": "a"}] * 3 + [{"task": "b"}] * 2)
    for layer, block in enumerate(model["layers"]):
        assert torch.equal(routing.ids(layer), block.token.gate.said[0][0])
        assert [heatmap(trace)[layer, e] for e in range(4)] == counted(block.token.gate.said, 4)
        assert [heatmap(trace, "task")[layer, e] for e in range(3)] == counted(block.task.gate.said, 3)
    rows = trace.view("load", by="task", stream="task", layer=0).to_pylist()
    assert sum(row["count"] for row in rows if row["task"] == "b") == 2


def test_a_router_that_sees_only_the_noise_level(tmp_path):
    """MoDE: the decision depends on the diffusion step alone, one for all tokens of a sample."""
    model = stack(Mixture(gate=Gate(4, 2, width=1)), Mixture(gate=Gate(4, 2, width=1)))
    noise = torch.linspace(-2, 2, 8).reshape(8, 1, 1)
    with (
        torch.no_grad(),
        record_routing(model, routers=[gate_at("layers.*.gate")]) as routing,
    ):
        for layer in model["layers"]:
            layer(torch.randn(8, 5, WIDTH), noise)
    assert routing.ids(0).shape == (8, 2)
    samples = [{"text": f"noise {level:.1f}", "noise": f"{level:.1f}"} for level in noise.flatten().tolist()]
    trace = save_routing(routing, tmp_path / "t", samples=samples)
    assert [heatmap(trace)[1, e] for e in range(4)] == counted(model["layers"][1].gate.said, 4)
    assert trace.tags()["noise"] == sorted({sample["noise"] for sample in samples})


def test_patches_of_an_image_by_task(tmp_path):
    """M³ViT: each task has a gate of its own over the same experts; rows are patches."""

    class PerTask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tasks = nn.ModuleDict({"depth": Mixture(), "edges": Mixture()})

        def forward(self, x, task):
            return self.tasks[task](x)

    model = stack(PerTask())
    routers = [gate_at(f"layers.*.tasks.{task}.gate", stream=task) for task in ("depth", "edges")]
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        for task in ("depth", "edges"):
            model["layers"][0](torch.randn(2, 9, WIDTH), task)
    patches = [f"patch {y},{x}" for y in range(3) for x in range(3)]
    trace = save_routing(routing, tmp_path / "t", samples=2, rows=patches)
    for task in ("depth", "edges"):
        assert [heatmap(trace, task)[0, e] for e in range(4)] == counted(
            model["layers"][0].tasks[task].gate.said, 4
        )
    assert trace.tokens("1").column("token").to_pylist() == patches


def test_steps_of_an_episode(tmp_path):
    """MENTOR: the policy decides step by step; one forward a step."""
    model = stack(Mixture(8, 2))
    router = gate_at("layers.*.gate", num_experts=8)
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        for _ in range(12):
            model["layers"][0](torch.randn(1, WIDTH))
    trace = save_routing(routing, tmp_path / "t", samples=[{"id": "episode"}])
    events = trace.events("episode", layer=0).to_pylist()
    assert [event["experts"] for event in events] == [
        ids[0].tolist() for ids, _ in model["layers"][0].gate.said
    ]
    assert [event["position"] for event in events] == list(range(12))
    assert [heatmap(trace)[0, e] for e in range(8)] == counted(model["layers"][0].gate.said, 8)


def test_experts_of_neighbouring_layers(tmp_path):
    """ReXMoE: a layer chooses among its own experts and those of the layer below."""
    model = stack(Mixture(6, 2), Mixture(6, 2))
    routers = [
        gate_at("layers.0.gate", owners=[0] * 6, num_experts=6),
        gate_at("layers.1.gate", owners=[0, 0, 0, 1, 1, 1], num_experts=6),
    ]
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        for layer in model["layers"]:
            layer(torch.randn(10, WIDTH))
    assert [spec.layer for spec in routing.routers] == [0, 1]
    assert routing.routers[1].note == "Experts 0 to 2 belong to layer 0; experts 3 to 5 belong to layer 1."
    trace = save_routing(routing, tmp_path / "t", samples=10)
    assert trace.routers[1].note == routing.routers[1].note
    assert [heatmap(trace)[1, e] for e in range(6)] == counted(model["layers"][1].gate.said, 6)


def test_one_pathway_for_a_whole_image(tmp_path):
    """AdvMoE: a convolutional router picks one pathway an image, top-1, and gives no weight."""

    class Pathway(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)

        def forward(self, image):
            return self.head(self.pool(image).flatten(1)).argmax(-1)

    model = stack(Pathway())
    router = DeclaredRouter(router="layers.*", num_experts=2, top_k=1, ids=0, scoring="none", stream="image")
    images = torch.randn(6, 3, 4, 4)
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        expected = model["layers"][0](images)
    assert torch.equal(routing.ids(0, "image"), expected.unsqueeze(-1))
    assert routing.weights(0, "image") is None
    with (
        torch.no_grad(),
        Steering([{"rule": "off", "experts": [0], "stream": "image"}]).applied(model, routers=[router]),
    ):
        assert (model["layers"][0](images) == 1).all()
    trace = save_routing(routing, tmp_path / "t", samples=6)
    assert [heatmap(trace, "image").get((0, e), 0) for e in range(2)] == expected.bincount(
        minlength=2
    ).tolist()


def test_a_gate_that_is_fitted_step_by_step(tmp_path):
    """MixER: one expert for a whole environment, from its context; between steps k-means moves the centres."""

    class Nearest(nn.Module):
        def __init__(self, centres: torch.Tensor) -> None:
            super().__init__()
            self.centres = centres

        def forward(self, context):
            return (-torch.cdist(context, self.centres)).softmax(-1).topk(1)

    contexts = torch.cat([torch.randn(5, 2) + 3, torch.randn(7, 2) - 3])
    model = stack(Nearest(contexts[:3].clone()))
    router = DeclaredRouter(router="layers.*", num_experts=3, top_k=1, ids=1, weights=0)
    decided = []
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        for _ in range(4):
            chosen = model["layers"][0](contexts).indices.flatten()
            decided.append(chosen)
            for expert in chosen.unique():
                model["layers"][0].centres[expert] = contexts[chosen == expert].mean(0)
    assert torch.equal(routing.ids(0).flatten(), torch.cat(decided))
    assert not torch.equal(decided[0], decided[-1])
    samples = [{"id": f"step {i}", "step": str(i)} for i in range(4)]
    trace = save_routing(routing, tmp_path / "t", samples=samples)
    counts = torch.cat(decided).bincount(minlength=3).tolist()
    assert [heatmap(trace)[0, e] for e in range(3)] == counts
    last = trace.events("step 3", layer=0).to_pydict()["experts"]
    assert [experts[0] for experts in last] == decided[3].tolist()


def test_a_soft_gate_uses_every_expert(tmp_path):
    """The two-expert gate: k = E, only weights, no ids."""

    class Soft(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(WIDTH, 2)

        def forward(self, x):
            return self.score(x).softmax(-1)

    model = stack(Soft())
    router = DeclaredRouter(router="layers.*", num_experts=2, top_k=2, weights=0, scoring="softmax")
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        weights = model["layers"][0](torch.randn(9, WIDTH))
    assert torch.equal(routing.ids(0), weights.argsort(descending=True, stable=True))
    torch.testing.assert_close(routing.weights(0), weights.sort(descending=True).values, rtol=0, atol=0)
    trace = save_routing(routing, tmp_path / "t", samples=3)
    assert heatmap(trace) == {(0, 0): 9, (0, 1): 9}
    stored = torch.tensor(trace.events(layer=0)["weights"].to_pylist())
    torch.testing.assert_close(stored, weights.sort(descending=True).values, rtol=0, atol=1e-3)


def test_the_number_of_experts_varies_by_token(tmp_path):
    """Dynamic pruning: a token uses as many experts as its gate finds worth it, sometimes none."""

    class Varying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(WIDTH, 5)

        def forward(self, x):
            p = self.score(x).softmax(-1)
            return torch.where(p > 0.25, p, 0.0)

    model = stack(Varying())
    router = DeclaredRouter(router="layers.*", num_experts=5, top_k=None, weights=0)
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        gates = model["layers"][0](3 * torch.randn(40, WIDTH))
    used = gates > 0
    assert used.sum(-1).unique().numel() > 1
    assert torch.equal((routing.ids(0) >= 0).sum(-1), used.sum(-1))
    trace = save_routing(routing, tmp_path / "t", samples=4)
    for number in range(4):
        for event, row in zip(trace.events(str(number)).to_pylist(), gates[10 * number :], strict=False):
            assert (
                event["experts"] == row.argsort(descending=True, stable=True)[: int((row > 0).sum())].tolist()
            )
    assert [heatmap(trace)[0, e] for e in range(5)] == used.sum(0).tolist()


def test_places_can_be_attributes_and_functions():
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(WIDTH, 4)

        def forward(self, x):
            self.chosen = self.score(x).topk(2).indices
            return x

    model = stack(Keeper())
    by_name = DeclaredRouter(router="layers.*", num_experts=4, top_k=2, ids="chosen")
    by_function = DeclaredRouter(
        router="layers.*", num_experts=4, top_k=2, ids=lambda call: call.module.chosen
    )
    for router in (by_name, by_function):
        with torch.no_grad(), record_routing(model, routers=[router]) as routing:
            model["layers"][0](torch.randn(3, WIDTH))
        assert torch.equal(routing.ids(0), model["layers"][0].chosen)


def test_a_declared_router_is_steered_through_its_own_linear_layer():
    model = stack(Mixture(), Mixture())
    routers = [gate_at("layers.*.gate")]
    x = torch.randn(12, WIDTH)
    rules = [{"rule": "off", "experts": [1]}, {"rule": "on", "experts": [3], "layers": [0]}]
    with torch.no_grad(), record_routing(model, routers=routers, steering=Steering(rules)) as routing:
        for layer in model["layers"]:
            layer(x)
    assert (routing.ids(0) != 1).all()
    assert (routing.ids(1) != 1).all()
    assert (routing.ids(0) == 3).any(-1).all()


def test_declarations_stand_beside_routers_that_are_found():
    from tiny import tiny_olmoe

    model: Any = tiny_olmoe()
    model.extra = Gate(4, 2)
    specs = find_routers(model, declared=[gate_at("extra", stream="task", layer=5)])
    assert [(s.layer, s.stream, s.found_by) for s in specs] == [
        *((layer, "decoder", "experts call") for layer in range(3)), (5, "task", "declared"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (
            DeclaredRouter(router="nowhere.*", num_experts=2, top_k=1, ids=0),
            "no module of this model matches",
        ),
        (DeclaredRouter(router="layers.*", num_experts=2, top_k=1), "names no ids, weights or logits"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(router, message):
    with pytest.raises(UnknownRouterError, match=message):
        find_routers(stack(Gate(2, 1)), declared=[router])


def test_rows_that_do_not_fit_the_samples_are_refused(tmp_path):
    model = stack(Mixture())
    with (
        torch.no_grad(),
        record_routing(model, routers=[gate_at("layers.*.gate")]) as routing,
    ):
        model["layers"][0](torch.randn(7, WIDTH))
    with pytest.raises(TracerError, match="decided on 7 rows, which 2 samples can't share"):
        save_routing(routing, tmp_path / "t", samples=2)
