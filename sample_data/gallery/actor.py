"""A mixture as an actor, and a mixture as a policy.

A pendulum that must be swung up and held. One actor sends its observation through two of four experts (MENTOR); one
policy is a mixture of four Gaussians with a weight for each (PMOE).

Systems: 35 MENTOR (arXiv 2410.14972); 41 PMOE (arXiv 2104.09122)
Real: both architectures, driving the pendulum step by step, with every decision recorded as it was executed.
Toy: the pendulum stands in this script (the equations of the usual benchmark), and both imitate a hand-written
    controller: no reinforcement learning, no images.
Not shown: MENTOR's perturbation of weights, PMOE's gradient estimators, and any return of the papers.
Look at: expert share along the episode, streams `actor` and `mixture`: other experts while it swings up than while it
    balances at the top.
Opens: structure?question=Timeline&stream=actor
"""

from __future__ import annotations

import math
from os import PathLike

import torch
from torch import Tensor, nn

from moescope.sample_data.gallery.kit import Experts, Gate, by_sample, save, train
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

EXPERTS, TOP, WIDTH = 4, 2, 16
GRAVITY, STEP, STRONGEST, FASTEST = 10.0, 0.05, 2.0, 8.0
"""Acceleration, seconds of a step, largest torque, largest speed; mass and length are 1."""


def swing(angle: Tensor, speed: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the pendulum; angle 0 is upright."""
    push = 1.5 * GRAVITY * angle.sin() + 3 * torque.clamp(-STRONGEST, STRONGEST)
    speed = (speed + push * STEP).clamp(-FASTEST, FASTEST)
    return torch.remainder(angle + speed * STEP + math.pi, 2 * math.pi) - math.pi, speed


def teacher(angle: Tensor, speed: Tensor) -> Tensor:
    """The controller: pump energy until it reaches that of the top, there push back."""
    energy = speed.square() / 6 + GRAVITY / 2 * angle.cos()
    pump = STRONGEST * torch.sign(speed * (GRAVITY / 2 - energy))
    hold = -12 * angle - 2.5 * speed
    near = (angle.abs() < 0.5) & (speed.abs() < 3)
    return torch.where(near, hold, pump).clamp(-STRONGEST, STRONGEST)


def observe(angle: Tensor, speed: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin(), speed / FASTEST], -1)


class Actor(nn.Module):
    """MENTOR's shape: observation → features → top-2 of 4 experts → torque."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Linear(3, WIDTH), nn.Tanh())
        self.gate, self.experts, self.out = (
            Gate(WIDTH, EXPERTS, TOP),
            Experts(EXPERTS, WIDTH, 32),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, seen: Tensor) -> Tensor:
        x = self.into(seen)
        ids, weights, _ = self.gate(x)
        return (
            STRONGEST
            * self.out(x + self.experts(x, ids, weights / weights.sum(-1, keepdim=True)))[..., 0].tanh()
        )


class Policy(nn.Module):
    """PMOE's shape: a weight, a mean and a spread for each of 4 Gaussians."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Linear(3, 2 * WIDTH), nn.Tanh())
        self.gate, self.means = Gate(2 * WIDTH, EXPERTS, EXPERTS), nn.Linear(2 * WIDTH, EXPERTS)
        self.spread = nn.Parameter(torch.zeros(EXPERTS) - 0.5)

    def log_likelihood(self, seen: Tensor, torque: Tensor) -> Tensor:
        x = self.into(seen)
        logits, means = self.gate(x)[2], STRONGEST * self.means(x).tanh()
        each = torch.distributions.Normal(means, self.spread.exp().clamp(min=0.1)).log_prob(torque[..., None])
        return (logits.log_softmax(-1) + each).logsumexp(-1)

    def forward(self, seen: Tensor) -> Tensor:
        """The mean of the likeliest Gaussian."""
        x = self.into(seen)
        ids, _, _ = self.gate(x)
        return (STRONGEST * self.means(x).tanh()).gather(-1, ids[..., :1])[..., 0]


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Let both imitate the teacher, then drive the pendulum with each from the same starts."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"actor": (actor := Actor()), "mixture": (policy := Policy())})

    def loss(step: int) -> Tensor:
        angle, speed = (torch.rand(256) * 2 - 1) * math.pi, (torch.rand(256) * 2 - 1) * FASTEST
        # Half of them near the top, where the torque must be fine.
        angle[:128], speed[:128] = angle[:128] * 0.25, speed[:128] * 0.4
        seen, torque = observe(angle, speed), teacher(angle, speed)
        return (actor(seen) - torque).square().mean() - policy.log_likelihood(seen, torque).mean()

    reached = train(model.parameters(), loss, 150 if small else 1500, 5e-3)
    episodes, steps = (6, 60) if small else (24, 200)
    start = (math.pi - torch.rand(episodes) * 0.6, torch.rand(episodes) * 0.4)
    routers = [
        DeclaredRouter(router="actor.gate", layer=0, num_experts=EXPERTS, top_k=TOP, ids=0, logits=2, stream="actor",
                       weights=lambda call: call.output[1] / call.output[1].sum(-1, keepdim=True), steerable=False),
        DeclaredRouter(router="mixture.gate", layer=0, num_experts=EXPERTS, top_k=EXPERTS, ids=0, weights=1, logits=2,
                       stream="mixture", steerable=False),
    ]  # fmt: skip
    upright = {}
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        for name, driver in (("actor", actor), ("mixture", policy)):
            angle, speed = start
            for _ in range(steps):
                angle, speed = swing(angle, speed, driver(observe(angle, speed)))
            upright[name] = round(float((angle.abs() < 0.3).float().mean()), 3)
    samples = [{"id": f"{name} {n}", "text": f"episode {n} driven by the {name}", "driver": name}
               for name in ("actor", "mixture") for n in range(episodes)]  # fmt: skip
    measured = {"training_loss": round(reached, 3), "upright_at_the_end": upright}
    passed = {"actor": range(episodes), "mixture": range(episodes, 2 * episodes)}
    rows = [f"step {step}" for step in range(steps)]
    return save(
        "actor",
        out,
        by_sample(routing, episodes),
        samples=samples,
        rows=rows,
        measured=measured,
        passed=passed,
    )
