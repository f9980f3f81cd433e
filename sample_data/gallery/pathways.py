"""Pathways through a convolutional network, under attack.

A small CNN in which a router sends each image through one of two pathways per layer. Perturbations of growing strength
move images to other pathways. AdvMoE trains routers and experts in turn against that; both trainings stand side by
side.

Systems: 33 AdvMoE (arXiv 2308.10110)
Real: top-1 routing of whole images, perturbations along the sign of the gradient (FGSM), and two trainings on such
    images: all parameters together (`standard`), or routers and experts in turn (`alternating`).
Toy: digits of 8 × 8 pixels drawn by rule, two layers, two pathways, one step of FGSM where the paper takes many; the
    alternating training follows the paper's idea, not its code.
Not shown: robust accuracy on natural images, and the gain that the paper reports: in this small run the alternating
    training moves more images (.20 against .12 at eps .1), and learns less.
Look at: flip rate against the strength `eps`: 0 without a perturbation, and rising. Streams `standard` and
    `alternating`; the measured flip rates have 95 % intervals over images.
Opens: structure?question=Timeline&by=eps&stream=standard
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moescope.kernels.agreement import flipped
from moescope.kernels.statistics.bootstrap import bootstrap_interval
from moescope.sample_data.gallery.kit import Gate, drawn_digits, save
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing
from moescope.tracer.hooks.record import Routing

STRENGTHS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
TRAINED_WITH, PATHS, CHANNELS, LAYERS = 0.1, 2, 8, 2
KINDS = ("standard", "alternating")


class Pathways(nn.Module):
    """One convolution per pathway; the router reads the whole image and picks one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(channels, CHANNELS, 3, padding=1) for _ in range(PATHS))
        self.look = nn.Conv2d(channels, 4, 3, padding=1)
        self.router, self.balance = Gate(4 * 4, PATHS, 1), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        seen = F.adaptive_avg_pool2d(self.look(x).relu(), 2).flatten(1)
        ids, weights, logits = self.router(seen)
        used = F.one_hot(ids[:, 0], PATHS).float().mean(0)
        self.balance = PATHS * (used * logits.softmax(-1).mean(0)).sum()
        each = torch.stack([path(x) for path in self.paths], 1)
        chosen = each[torch.arange(len(x)), ids[:, 0]]
        return (chosen * weights[:, 0, None, None, None] * PATHS).relu()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Pathways(channels) for channels in (1, CHANNELS))
        self.head = nn.Linear(CHANNELS * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images[:, None] - 0.5
        for layer in self.layers:
            x = layer(x)
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


def attack(model: nn.Module, images: Tensor, digits: Tensor, strength: float) -> Tensor:
    """FGSM: a step of `strength` along the sign of the gradient of the loss, kept within [0, 1]."""
    moving = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(moving), digits), moving)
    return (images + strength * slope.sign()).clamp(0, 1).detach() if strength else images


def fit(model: Network, kind: str, images: Tensor, digits: Tensor, steps: int) -> None:
    """Adversarial training; `alternating` moves routers at even steps and everything else at odd ones."""
    named = list(model.named_parameters())
    routers = [value for name, value in named if ".router." in name or ".look." in name]
    others = [value for name, value in named if ".router." not in name and ".look." not in name]
    turns = [[*routers, *others]] if kind == "standard" else [routers, others]
    optimisers = [torch.optim.Adam(values, lr=4e-3) for values in turns]
    for step in range(steps * len(turns)):
        pick = torch.randint(len(images), (64,))
        attacked = attack(model, images[pick], digits[pick], TRAINED_WITH)
        optimiser = optimisers[step % len(turns)]
        model.zero_grad()
        error = F.cross_entropy(model(attacked), digits[pick])
        (error + 0.2 * sum(layer.balance for layer in model.layers)).backward()  # pyright: ignore
        optimiser.step()


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train both networks, then attack each with growing strength on new images."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, digits = drawn_digits(300 if small else 3000, rng)
    start = Network().state_dict()
    model = nn.ModuleDict({kind: Network() for kind in KINDS})
    for kind, network in model.items():
        network.load_state_dict(start)
        fit(network, kind, images, digits, 30 if small else 600)  # pyright: ignore[reportArgumentType]
    images, digits = drawn_digits(40 if small else 200, rng)
    routers = [
        DeclaredRouter(router=f"{kind}.layers.*.router", num_experts=PATHS, top_k=1, ids=0, weights=1, logits=2,
                       stream=kind, steerable=False)
        for kind in KINDS
    ]  # fmt: skip
    right: dict[str, list[float]] = {kind: [] for kind in KINDS}
    attacked = {(k, eps): attack(model[k], images, digits, eps) for eps in STRENGTHS for k in KINDS}
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        for (kind, _), seen in attacked.items():
            right[kind].append(round(float((model[kind](seen).argmax(-1) == digits).float().mean()), 3))
    measured = {
        "strengths": STRENGTHS,
        "digits_right": right,
        "flip_rate": {k: flip_rates(routing, k) for k in KINDS},
    }
    samples = [{"id": f"image {n}, eps {eps:g}", "text": f"image {n} moved by {eps:g}", "eps": f"{eps:g}",
                "digit": int(digit)} for eps in STRENGTHS for n, digit in enumerate(digits)]  # fmt: skip
    return save("pathways", out, routing, samples=samples, rows=["image"], measured=measured)


def flip_rates(routing: Routing, stream: str) -> list[dict[str, float]]:
    """Share of (image, layer) that take another pathway than without a perturbation, by strength, with its interval."""
    flips_LSP = []
    for layer in range(LAYERS):
        ids_SP = routing.ids(layer, stream).reshape(len(STRENGTHS), -1).numpy()
        flips_LSP.append([flipped(ids_SP[:1].T, ids_SP[s : s + 1].T) for s in range(len(STRENGTHS))])
    found = bootstrap_interval(np.mean(flips_LSP, axis=0).T.astype(float))
    return [{name: round(float(getattr(found, name)[s]), 4) for name in ("point", "low", "high")}
            for s in range(len(STRENGTHS))]  # fmt: skip
