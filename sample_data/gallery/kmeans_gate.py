"""A gate fitted by k-means and least squares.

Two families of differential equations, and a top-1 gate that is not trained by gradients: k-means groups the contexts
of the environments, least squares turns the groups into a linear gate, step by step (MixER).

Systems: 17 MixER (arXiv 2502.05335)
Real: contexts from least squares, k-means that starts where the last step ended, a linear gate fitted to its groups by
    least squares, and one expert per group, fitted by least squares to the environments that the gate sends there.
Toy: two families of ODEs in two variables (damped oscillator, Lotka–Volterra), experts that are linear in six known
    features instead of neural ODEs, and contexts that are the environment's own fitted coefficients, not learned ones.
Not shown: meta-learning, adaptation to new environments, more than two families.
Look at: the gate at each step. It starts with few noisy points of each trajectory and sends a family to both experts;
    in the end each family has an expert of its own. Filter by `family`.
Opens: structure?question=Timeline&by=step&tag.family=oscillator
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn

from moescope.sample_data.gallery.kit import save
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

FAMILIES = ("oscillator", "predator and prey")
FIRST_POINTS, MORE_POINTS, NOISE = 6, 4, 0.4


class LinearGate(nn.Module):
    """Top-1 gate: scores are linear in the context; gives (ids, weights, logits)."""

    def __init__(self, features: int, experts: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(features + 1, experts), requires_grad=False)

    def forward(self, context_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.cat([context_ND, torch.ones(len(context_ND), 1)], 1) @ self.matrix
        ids = logits.argmax(-1, keepdim=True)
        return ids, torch.ones_like(ids, dtype=logits.dtype), logits

    def fit(self, context_ND: Tensor, group_N: Tensor) -> None:
        """Least squares from contexts to one-hot groups."""
        wanted = nn.functional.one_hot(group_N, self.matrix.shape[1]).float()
        inputs = torch.cat([context_ND, torch.ones(len(context_ND), 1)], 1)
        self.matrix.data = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution


def features(points_T2: np.ndarray) -> np.ndarray:
    """(T, 6): 1, x, y, x², xy, y²."""
    x, y = points_T2.T
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)


def environment(family: str, rng: np.random.Generator, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, 2) of one environment, and their noisy derivatives (T, 2)."""
    place = rng.uniform(0.3, 2, (points, 2))
    x, y = place.T
    a, b, c, d = rng.uniform(0.7, 1.3, 4)
    slope = np.stack([y * a, -b * x - 0.3 * c * y], 1) if family == FAMILIES[0] else np.stack(
        [a * x - b * x * y, c * x * y - d * y], 1)  # fmt: skip
    return place, slope + rng.normal(0, NOISE, slope.shape)


def context(place: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """(12,) coefficients of the environment's own least squares, a little regularised."""
    inputs = features(place)
    return np.linalg.solve(inputs.T @ inputs + 0.3 * np.eye(6), inputs.T @ slope).T.ravel()


def k_means_step(context_ND: np.ndarray, centre_GD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of Lloyd's algorithm: groups (N,), centres (G, D); a group that is empty keeps its centre."""
    group_N = np.linalg.norm(context_ND[:, None] - centre_GD, axis=-1).argmin(1)
    moved = [
        context_ND[group_N == g].mean(0) if (group_N == g).any() else centre_GD[g]
        for g in range(len(centre_GD))
    ]
    return group_N, np.stack(moved)


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Fit the gate step by step; each step's gate is recorded on all environments before it is fitted again."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    steps, each = (6, 10) if small else (12, 24)
    points = FIRST_POINTS + MORE_POINTS * steps
    families = [family for family in FAMILIES for _ in range(each)]
    data = [environment(family, rng, points) for family in families]
    gate = LinearGate(12, 2)
    model = nn.ModuleDict({"layers": nn.ModuleList([gate])})
    router = DeclaredRouter(
        router="layers.0", num_experts=2, top_k=1, ids=0, weights=1, logits=2, scoring="none"
    )
    centre_GD, errors = None, []
    with record_routing(model, routers=[router]) as routing:
        for step in range(steps):
            seen = FIRST_POINTS + MORE_POINTS * step
            context_ND = np.stack([context(place[:seen], slope[:seen]) for place, slope in data])
            ids, _, _ = gate(torch.from_numpy(context_ND).float())
            errors.append(_error(data, ids[:, 0].numpy()))
            if centre_GD is None:
                centre_GD = context_ND[rng.choice(len(data), 2, replace=False)]
            group_N, centre_GD = k_means_step(context_ND, centre_GD)
            gate.fit(torch.from_numpy(context_ND).float(), torch.from_numpy(group_N))
    numbers = [str(1 + n % each) for n in range(len(data))]
    samples = [
        {"id": f"step {step}, {family} {number}", "text": f"{family} {number} at step {step}", "step": step,
         "family": family, "environment": f"{family} {number}"}
        for step in range(steps) for family, number in zip(families, numbers, strict=True)
    ]  # fmt: skip
    measured = {"error_of_the_experts_by_step": [round(error, 4) for error in errors]}
    return save("kmeans_gate", out, routing, samples=samples, rows=["context"], measured=measured)


def _error(data: list[tuple[np.ndarray, np.ndarray]], expert_N: np.ndarray) -> float:
    """Mean squared error of one least squares fit per expert, over the environments that it gets."""
    total = []
    for expert in np.unique(expert_N):
        mine = [pair for pair, e in zip(data, expert_N, strict=True) if e == expert]
        inputs, slopes = (np.concatenate(column) for column in zip(*mine, strict=True))
        fitted = np.linalg.lstsq(features(inputs), slopes, rcond=None)[0]
        total.append(((features(inputs) @ fitted - slopes) ** 2).ravel())
    return float(np.concatenate(total).mean())
