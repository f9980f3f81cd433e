"""A router that sees only the noise level.

A small diffusion denoiser of 2-D shapes. Its router never sees the point that is denoised, only how much noise there
is, so the experts of a noise level can be fixed before sampling (MoDE).

Systems: 26 MoDE diffusion policy (arXiv 2412.12953)
Real: the denoiser and its training, the noise-only router with a load-balancing loss, and cached routing: the experts
    of each level, computed once, give the same output as live routing.
Toy: points of three shapes instead of robot actions, feed-forward layers instead of a transformer, 8 experts.
Not shown: a policy, language or images as a condition, and how fast cached routing is.
Look at: expert share along the noise level. All points of a level share their experts, whatever their shape.
Opens: structure?question=Timeline&by=noise
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor, nn

from moescope.sample_data.gallery.kit import Experts, Gate, save, train
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

SHAPES = ("ring", "cross", "arc")
EXPERTS, TOP, WIDTH, LAYERS = 8, 2, 32, 3
LOWEST, HIGHEST = 0.02, 3.0
"""Standard deviation of the noise; the shapes have a radius of 1."""

Decision = tuple[Tensor, Tensor]
"""Ids and weights of one layer, (1, K) each: the same for all points of a level."""


def shape_points(count: int) -> tuple[Tensor, list[str]]:
    """Points (count, 2) of the three shapes in turn, and the shape of each."""
    names = [SHAPES[n % 3] for n in range(count)]
    turn, along, flip = torch.rand(count) * 2 * math.pi, torch.rand(count) * 2 - 1, torch.rand(count) < 0.5
    ring = torch.stack([turn.cos(), turn.sin()], 1)
    cross = torch.where(flip[:, None], torch.stack([along, along], 1), torch.stack([along, -along], 1))
    arc = torch.stack([(turn / 2).cos(), (turn / 2).sin() - 0.5], 1)
    kind = torch.arange(count) % 3
    return torch.stack([ring, cross, arc])[kind, torch.arange(count)], names


def noise_features(noise_B: Tensor) -> Tensor:
    """(B, 8): the logarithm of the level, and waves of it."""
    level = noise_B.log()[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0])
    return torch.cat([level.sin(), level.cos()], 1)


class Layer(nn.Module):
    """A feed-forward mixture whose gate reads the noise features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate = nn.LayerNorm(WIDTH), Gate(8, EXPERTS, TOP)
        self.experts, self.balance = Experts(EXPERTS, WIDTH, 32), torch.zeros(())

    def decide(self, noise_B: Tensor) -> Decision:
        ids, weights, logits = self.gate(noise_features(noise_B))
        used = nn.functional.one_hot(ids, EXPERTS).float().sum(1).mean(0)
        self.balance = EXPERTS / TOP * (used * logits.softmax(-1).mean(0)).sum()
        return ids, weights / weights.sum(-1, keepdim=True)

    def forward(self, x: Tensor, decision: Decision) -> Tensor:
        ids, weights = (part.expand(len(x), TOP) for part in decision)
        return x + self.experts(self.norm(x), ids, weights)


class Denoiser(nn.Module):
    """Predicts the noise in a point from the noisy point and the level."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(2 + 8, WIDTH), nn.Linear(WIDTH, 2)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def plan(self, noise: float) -> list[Decision]:
        """The decisions of all layers at a level: what a sampler caches."""
        return [layer.decide(torch.tensor([noise])) for layer in self.layers]  # pyright: ignore[reportCallIssue]

    def forward(self, noisy_B2: Tensor, noise_B: Tensor, cached: Sequence[Decision] | None = None) -> Tensor:
        scaled = noisy_B2 / (1 + noise_B[:, None] ** 2).sqrt()
        x = self.into(torch.cat([scaled, noise_features(noise_B)], 1))
        for number, layer in enumerate(self.layers):
            x = layer(x, cached[number] if cached else layer.decide(noise_B))  # pyright: ignore[reportCallIssue]
        return self.out(x)


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train the denoiser, then record all levels, the same points at each."""
    torch.manual_seed(seed)
    model = Denoiser()

    def loss(step: int) -> Tensor:
        points, _ = shape_points(96)
        noise_B = torch.empty(96).uniform_(math.log(LOWEST), math.log(HIGHEST)).exp()
        drawn = torch.randn(96, 2)
        error = (model(points + noise_B[:, None] * drawn, noise_B) - drawn).square().mean()
        return error + 0.05 * sum(layer.balance for layer in model.layers)  # pyright: ignore

    reached = train(model.parameters(), loss, 60 if small else 800)
    levels = torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), 12 if small else 32).tolist()
    points, shapes = shape_points(24)
    router = DeclaredRouter(
        router="layers.*.gate", num_experts=EXPERTS, top_k=TOP, ids=0, weights=1, logits=2
    )
    apart = 0.0
    with torch.no_grad():
        plans = [model.plan(level) for level in levels]
        with record_routing(model, routers=[router]) as routing:
            for level in levels:
                model(points + level * torch.randn_like(points), torch.full((24,), level))
        torch.manual_seed(seed + 1)
        for level, plan in zip(levels, plans, strict=True):
            noisy, noise_B = points + level * torch.randn_like(points), torch.full((24,), level)
            apart = max(
                apart, float((model(noisy, noise_B, cached=plan) - model(noisy, noise_B)).abs().max())
            )
    samples = [
        {"id": f"noise {level:.3f}", "text": f"noise level {level:.3f}", "noise": f"{level:.3f}"}
        for level in levels
    ]
    measured = {"training_loss": round(reached, 3), "largest_difference_cached_to_live": apart}
    rows = [f"{shape} {n // 3}" for n, shape in enumerate(shapes)]
    return save("noise_router", out, routing, samples=samples, rows=rows, measured=measured)
