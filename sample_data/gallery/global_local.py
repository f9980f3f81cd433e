"""A global and a local expert.

One expert has learned everybody's digits, a small one a single writer's, whose digits are distorted; a gate mixes the
two (low-cost customisation).

Systems: 34 Low-cost customisation (arXiv 1811.00056)
Real: a frozen global expert, a local expert and a gate that are trained afterwards on the writer's own few images, and
    the gate's value for every image.
Toy: digits of 8 × 8 pixels drawn by rule; the writer `negative` writes light on dark. Feed-forward networks
    instead of speech or handwriting models.
Not shown: how little memory or data the method needs on a device.
Look at: weight of the local expert by writer, and beneath it the histogram of the gate: near 1 for the distorted
    writer, near 0 for the others.
Opens: structure?question=Timeline&by=writer
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moescope.sample_data.gallery.kit import drawn_digits, save, train
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

WRITERS = ("anna", "ben", "clara", "negative")
BINS = 10


def network(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Mixer(nn.Module):
    """Weights (B, 2) of the global and the local expert; `forced` sets the local one's."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
        self.forced: float | None = None

    def forward(self, images: Tensor) -> Tensor:
        local = (
            self.score(images).sigmoid() if self.forced is None else torch.full((len(images), 1), self.forced)
        )
        return torch.cat([1 - local, local], 1)


class Customised(nn.Module):
    """(1 − g) · global + g · local."""

    def __init__(self) -> None:
        super().__init__()
        self.everybody, self.local, self.gate = network(48), network(16), Mixer()

    def forward(self, images: Tensor) -> Tensor:
        weights = self.gate(images)
        return weights[:, :1] * self.everybody(images) + weights[:, 1:] * self.local(images)


def written(count: int, writer: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images and digits of a writer."""
    images, digits = drawn_digits(count, rng, noise=0.1)
    return (1 - images if writer == WRITERS[-1] else images), digits


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train the global expert on the ordinary writers, then local expert and gate; record new images of all."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, many = Customised(), 200 if small else 1500
    data = {writer: written(many, writer, rng) for writer in WRITERS}
    ordinary = [torch.cat(part) for part in zip(*(data[writer] for writer in WRITERS[:-1]), strict=True)]
    everyone = [torch.cat(part) for part in zip(*data.values(), strict=True)]

    def loss_of(part: nn.Module, images: Tensor, digits: Tensor) -> Tensor:
        pick = torch.randint(len(images), (64,))
        return F.cross_entropy(part(images[pick]), digits[pick])

    steps = 150 if small else 1000
    train(model.everybody.parameters(), lambda _: loss_of(model.everybody, ordinary[0], ordinary[1]), steps)
    train(model.local.parameters(), lambda _: loss_of(model.local, *data[WRITERS[-1]]), steps)
    train(model.gate.parameters(), lambda _: loss_of(model, everyone[0], everyone[1]), steps)
    shown = {writer: written(30 if small else 100, writer, rng) for writer in WRITERS}
    router = DeclaredRouter(
        router="gate", layer=0, num_experts=2, top_k=2, weights=0, scoring="none", steerable=False
    )
    right, gates, samples = {}, [], []
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        for writer, (images, digits) in shown.items():
            correct = model(images).argmax(-1) == digits
            alone = model.everybody(images).argmax(-1) == digits
            right[writer] = {"mixed": round(float(correct.float().mean()), 3),
                             "global alone": round(float(alone.float().mean()), 3)}  # fmt: skip
    for spec in routing.routers:
        ids, weights = routing.ids(spec.layer), routing.weights(spec.layer)
        assert weights is not None
        gates = weights.gather(1, (ids == 1).long().argmax(1, keepdim=True))[:, 0].tolist()
    names = [writer for writer, (images, _) in shown.items() for _ in range(len(images))]
    histogram = {
        writer: np.histogram([g for g, n in zip(gates, names, strict=True) if n == writer], BINS, (0, 1))[
            0
        ].tolist()
        for writer in WRITERS
    }
    samples = [{"id": f"{writer} {n}", "text": f"digit by {writer}", "writer": writer, "gate": f"{gate:.1f}"}
               for n, (writer, gate) in enumerate(zip(names, gates, strict=True))]  # fmt: skip
    measured = {"experts": {"0": "global", "1": "local"}, "digits_right": right, "gate_histogram": histogram}
    return save("global_local", out, routing, samples=samples, rows=["image"], measured=measured)
