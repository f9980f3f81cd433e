"""ReLU experts chosen for sparsity.

A small language model whose experts are wide ReLU networks, and whose router prefers the expert that is expected to
activate the fewest neurons (MoE-X).

Systems: 2 MoE-X (arXiv 2503.07639)
Real: the language model, trained on the sample's texts; a router without weights of its own, that scores an expert by
    the mean and variance of its input weights; the number of active neurons, counted.
Toy: 2 layers, 8 experts of 64 neurons, four languages and some thousand tokens: it learns little more than frequent
    tokens. The router's formula is a recollection of the paper's idea, not its text: the score is the probability that
    a neuron stays silent where weights are normally distributed.
Not shown: interpretability scores, chess, any comparison with a dense model.
Look at: the measured correlation between an expert's score and minus its number of active neurons, by layer, with a
    95 % interval over texts; the heatmap shows which experts a layer prefers.
Opens: heatmap?measure=weight
"""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn

from moescope.kernels.statistics.bootstrap import bootstrap_interval
from moescope.sample_data.gallery.kit import Decoder, next_token_loss, sample_texts, save, train, windows
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, record_routing

EXPERTS, HIDDEN, TOP, SHARPNESS = 8, 64, 2, 8.0


def sparsity_scores(x: Tensor, inner_EHD: Tensor) -> Tensor:
    """Probability that a neuron of each expert stays silent, (..., E), for inputs x (..., D).

    If the weights of expert e are independent normals with the mean and variance of its H neurons, a pre-activation is
    normal with mean μ·x and variance σ²·x², so it is negative with probability Φ(−μ·x / √(σ²·x²)).
    """
    mean_ED, variance_ED = inner_EHD.mean(1), inner_EHD.var(1, unbiased=False)
    spread = (x.square() @ variance_ED.T + 1e-9).sqrt()
    return torch.special.ndtr(-(x @ mean_ED.T) / spread)


class SparsityRouter(nn.Module):
    """Top-k of the scores; gives (ids, weights, logits). It has no parameters: it reads the experts' weights."""

    def forward(self, x: Tensor, inner_EHD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = SHARPNESS * sparsity_scores(x, inner_EHD)
        weights, ids = logits.softmax(-1).topk(TOP, dim=-1)
        return ids, weights / weights.sum(-1, keepdim=True), logits


class ReluExperts(nn.Module):
    """Wide ReLU experts behind the router; keeps how many neurons of each expert were active."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(EXPERTS, HIDDEN, width) / width**0.5)
        self.outer = nn.Parameter(torch.randn(EXPERTS, HIDDEN, width) / HIDDEN**0.5)
        self.gate, self.active = SparsityRouter(), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        ids, weights, _ = self.gate(x, self.inner)
        hidden = torch.einsum("...d,ehd->...eh", x, self.inner).relu()
        self.active = (hidden > 0).sum(-1).detach()
        dense = torch.zeros(*x.shape[:-1], EXPERTS).scatter(-1, ids, weights)
        return torch.einsum("...e,...eh,ehd->...d", dense, hidden, self.outer)


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Train the language model, then record it on texts that it was not trained on."""
    torch.manual_seed(seed)
    length, width = 24, 48
    ids, texts, names, own = windows(sample_texts(("en", "de", "fr", "es"), 6 if small else 50), length)
    order = torch.randperm(len(ids))
    held, trained = sorted(order[: len(ids) // 4].tolist()), order[len(ids) // 4 :]
    model = Decoder(len(own), length, width, 2, lambda: ReluExperts(width))

    def loss(step: int) -> Tensor:
        return next_token_loss(model, ids[trained[torch.randint(len(trained), (16,))]])

    reached = train(model.parameters(), loss, 20 if small else 300)
    router = DeclaredRouter(router="layers.*.moe.gate", num_experts=EXPERTS, top_k=TOP, ids=0, weights=1, logits=2,
                            steerable=False)  # fmt: skip
    with torch.no_grad(), record_routing(model, routers=[router]) as routing:
        model(ids[held])
    measured = {"training_loss": round(reached, 3), "correlation_of_score_and_minus_active": {}}
    for spec in routing.routers:
        score = routing.logits(spec.layer)
        assert score is not None
        part = model.layers[spec.layer]
        active = part["moe"].active.flatten(0, 1)  # pyright: ignore[reportIndexIssue]
        measured["correlation_of_score_and_minus_active"][str(spec.layer)] = correlation(
            score, active, len(held)
        )
    samples, rows = [texts[n] for n in held], [names[n] for n in held]
    return save("relu_experts", out, routing, samples=samples, rows=rows, measured=measured)


def correlation(score_TE: Tensor, active_TE: Tensor, texts: int) -> dict[str, float]:
    """Mean over texts of Pearson's r between score and minus the active neurons, over the tokens and experts of a
    text; with its 95 % interval over texts."""
    pairs = zip(score_TE.chunk(texts), active_TE.chunk(texts), strict=True)
    r_P = [np.corrcoef(score.flatten(), -active.flatten())[0, 1] for score, active in pairs]
    found = bootstrap_interval(np.array(r_P))
    return {name: round(float(getattr(found, name)), 3) for name in ("point", "low", "high")}
