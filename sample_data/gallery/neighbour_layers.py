"""Routers that choose experts of neighbouring layers.

A small language model in which a layer may also use the experts of the layers beside it: an expert is told by the
layer that owns it and its number there (ReXMoE).

Systems: 21 ReXMoE (arXiv 2510.17483)
Real: shared experts, one router per layer over its own and its neighbours' experts, a schedule that opens more
    candidates while it trains, and the reuse of each layer's experts, counted.
Toy: 4 layers with 4 experts each, some thousand tokens of four languages. Neighbours are the nearest layers.
Not shown: the paper's quality at equal size, and its scale: there is no public checkpoint.
Look at: the reuse matrix under Structure: how much of a layer's choices go to experts of which layer. On the heatmap
    the card of a cell names the owner.
Opens: structure?question=Reuse
"""

from __future__ import annotations

from itertools import count
from os import PathLike

import torch
from torch import Tensor, nn

from moescope.sample_data.gallery.kit import (
    Decoder,
    Experts,
    next_token_loss,
    sample_texts,
    save,
    train,
    windows,
)
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

LAYERS, EXPERTS, REACH, TOP, WIDTH = 4, 4, 3, 2, 32
"""Experts of a layer, and how many layers' experts a router may choose from, its own included."""


def candidates(experts: int, reach: int, progress: float) -> int:
    """How many experts a router may choose from, from its own alone (0) to all in reach (1): 64 experts, a reach of
    4 layers, halfway: 160."""
    return round(experts * (1 + (reach - 1) * progress))


def owners_of(layer: int) -> list[int]:
    """The layers whose experts a layer may use: its own first, then the nearest."""
    return sorted(range(LAYERS), key=lambda other: (abs(other - layer), other))[:REACH]


class ReuseGate(nn.Module):
    """Top-k of the first `open` candidates, those of the own layer first: (ids, weights)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.randn(REACH * EXPERTS, WIDTH) / WIDTH**0.5)
        self.open = EXPERTS

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = nn.functional.linear(x, self.score[: self.open])
        weights, ids = logits.softmax(-1).topk(TOP, dim=-1)
        return ids, weights


class Reuse(nn.Module):
    """One layer: its gate, and the experts of the layers in reach, which belong to `bank`."""

    def __init__(self, layer: int, bank: list[Experts]) -> None:
        super().__init__()
        self.gate = ReuseGate()
        self.reached = [bank[owner] for owner in owners_of(layer)]
        self.own = bank[layer]

    @property
    def shared(self) -> list[Experts]:
        """Those of the open candidates' layers."""
        return self.reached[: -(-self.gate.open // EXPERTS)]

    def forward(self, x: Tensor) -> Tensor:
        ids, weights = self.gate(x)
        if len(self.shared) == 1:
            return self.own(x, ids, weights)
        each = torch.cat([experts.each(x) for experts in self.shared], -2)
        dense = torch.zeros(*each.shape[:-1]).scatter(-1, ids, weights)
        return torch.einsum("...e,...ed->...d", dense, each)


def build(vocabulary: int, length: int) -> tuple[Decoder, list[ReuseGate]]:
    """The language model and its gates."""
    bank, number = [Experts(EXPERTS, WIDTH, 32) for _ in range(LAYERS)], count()
    model = Decoder(vocabulary, length, WIDTH, LAYERS, lambda: Reuse(next(number), bank))
    return model, [module for module in model.modules() if isinstance(module, ReuseGate)]


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train with more and more candidates, then record with all of them."""
    torch.manual_seed(seed)
    length, steps = 24, 30 if small else 300
    ids, texts, names, own = windows(sample_texts(("en", "de", "fr", "es"), 5 if small else 40), length)
    model, gates = build(len(own), length)

    def loss(step: int) -> Tensor:
        for gate in gates:
            gate.open = candidates(EXPERTS, REACH, step / steps)
        return next_token_loss(model, ids[torch.randint(len(ids), (16,))])

    reached = train(model.parameters(), loss, steps)
    for gate in gates:
        gate.open = REACH * EXPERTS
    routers = [
        DeclaredRouter(
            router=f"layers.{layer}.moe.gate", num_experts=REACH * EXPERTS, top_k=TOP, ids=0, weights=1,
            owners=tuple(owner for owner in owners_of(layer) for _ in range(EXPERTS)), steerable=False,
        )
        for layer in range(LAYERS)
    ]  # fmt: skip
    with torch.no_grad(), record_routing(model, routers=routers) as routing:
        model(ids)
    measured = {"training_loss": round(reached, 3)}
    return save("neighbour_layers", out, routing, samples=texts, rows=names, measured=measured)
