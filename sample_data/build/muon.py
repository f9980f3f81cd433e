"""Muon (Jordan et al. 2024) for stacks of matrices, AdamW for everything else, as one optimizer pair.

Muon replaces a matrix's momentum by the nearest semi-orthogonal matrix, found by five Newton-Schulz steps.
torch.optim.Muon takes single matrices; the experts of a layer are a stack (E, rows, columns), done in one
batched product here.
"""

from __future__ import annotations

import torch
from recipe import Training
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(stack: Tensor, steps: int = 5) -> Tensor:
    """Each (rows, columns) matrix of the stack with its singular values moved near 1."""
    a, b, c = NEWTON_SCHULZ
    x = stack.mT if (tall := stack.shape[-2] > stack.shape[-1]) else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """`params`: tuples (parameter, matrices in it): the parameter is split into that many along its rows."""

    def __init__(self, params: list[tuple[nn.Parameter, int]], lr: float, weight_decay: float) -> None:
        groups = [{"params": [p], "pieces": pieces} for p, pieces in params]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            (p,) = group["params"]
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 1 - group["momentum"])
            nesterov = p.grad.lerp(momentum, group["momentum"])
            update = orthogonalize(nesterov.view(group["pieces"], -1, p.shape[-1]))
            scale = max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)


def make_optimizers(model: nn.Module, training: Training) -> list[torch.optim.Optimizer]:
    """Matrices inside the blocks to Muon (if the recipe says so); embedding, norms and routers to AdamW."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices: list[tuple[nn.Parameter, int]] = []
    if training.optimizer == "muon":
        for name, p in named:
            if name.endswith("gate_up_proj"):
                matrices.append((p, 2 * len(p)))
            elif name.endswith("down_proj"):
                matrices.append((p, len(p)))
            elif name.endswith("_proj.weight"):
                matrices.append((p, 1))
    taken = {id(p) for p, _ in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    adam = torch.optim.AdamW(rest, lr=training.vector_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [adam, Muon(matrices, training.matrix_rate, training.weight_decay)] if matrices else [adam]
