"""Cross-entropy that keeps its logits in cache, and the two losses of the routers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class FusedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear head; gradients are made chunk by chunk, so logits stay in cache."""

    @staticmethod
    def forward(ctx, hidden_TD: Tensor, head_VD: Tensor, targets_T: Tensor) -> Tensor:
        d_hidden, d_head = torch.empty_like(hidden_TD), torch.zeros_like(head_VD)
        total = hidden_TD.new_zeros(())
        for at in range(0, len(hidden_TD), 256):
            rows = slice(at, at + 256)
            logits = hidden_TD[rows] @ head_VD.T
            target = targets_T[rows, None]
            top = logits.amax(dim=-1, keepdim=True)
            picked = logits.gather(1, target) - top
            p = logits.sub_(top).exp_()
            norm = p.sum(dim=-1, keepdim=True)
            total += (norm.log() - picked).sum()
            p.div_(norm).scatter_add_(1, target, torch.full_like(picked, -1.0))
            torch.mm(p, head_VD, out=d_hidden[rows])
            d_head.addmm_(p.T, hidden_TD[rows])
        ctx.save_for_backward(d_hidden.div_(len(hidden_TD)), d_head.div_(len(hidden_TD)))
        return total / len(hidden_TD)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * grads[0], d_head * grads[0], None


def router_losses(logits: tuple[Tensor, ...], top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Switch balance loss and z-loss, each averaged over layers, and the choices per expert (L, E)."""
    logits_LTE = torch.stack(logits)
    ids_LTK = logits_LTE.topk(top_k, dim=-1).indices
    chosen_LE = F.one_hot(ids_LTK.flatten(1), logits_LTE.shape[-1]).sum(dim=1)
    share_LE = chosen_LE / chosen_LE.sum(dim=1, keepdim=True)
    probability_LE = logits_LTE.softmax(dim=-1).mean(dim=1)
    balance = logits_LTE.shape[-1] * (share_LE * probability_LE).sum(dim=1).mean()
    return balance, logits_LTE.logsumexp(dim=-1).square().mean(), chosen_LE
