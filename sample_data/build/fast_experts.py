"""Experts for training on a CPU: tokens are sorted by expert once, and each expert is one dense product.

transformers' own CPU paths mask, gather and add per expert. Here one gather brings the tokens of an expert
together (S = T * k rows, sorted), and a hand-written backward writes every expert's weight gradient into
its slice of one tensor. Used in training only; a saved model knows nothing of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "sorted_for_training"


class SortedExperts(torch.autograd.Function):
    """out[t] = sum over t's chosen experts e of weight * (silu(gate_e x) * up_e x) down_e^T."""

    @staticmethod
    def forward(
        ctx, hidden_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor, gate_up_EFD: Tensor, down_EDW: Tensor
    ) -> Tensor:
        order_S = torch.argsort(ids_TK.reshape(-1), stable=True)
        token_S = order_S // ids_TK.shape[1]
        counts = torch.bincount(ids_TK.reshape(-1), minlength=len(gate_up_EFD)).tolist()
        weight_S1 = weights_TK.reshape(-1, 1).index_select(0, order_S)
        gate_up_SF = hidden_TD.new_empty(len(order_S), gate_up_EFD.shape[1])
        out_TD = torch.zeros_like(hidden_TD)
        pieces = zip(token_S.split(counts), weight_S1.split(counts), gate_up_SF.split(counts), strict=True)
        for e, (token, weight, gate_up) in enumerate(pieces):
            torch.mm(hidden_TD.index_select(0, token), gate_up_EFD[e].T, out=gate_up)
            gate, up = gate_up.chunk(2, dim=-1)
            out_TD.index_add_(0, token, F.silu(gate).mul_(up).mul_(weight) @ down_EDW[e].T)
        ctx.counts = counts
        ctx.save_for_backward(hidden_TD, order_S, token_S, weight_S1, gate_up_SF, gate_up_EFD, down_EDW)
        return out_TD

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad_TD,) = grads
        hidden_TD, order_S, token_S, weight_S1, gate_up_SF, gate_up_EFD, down_EDW = ctx.saved_tensors
        counts = ctx.counts
        d_hidden_TD = torch.zeros_like(grad_TD)
        d_gate_up_EFD, d_down_EDW = torch.empty_like(gate_up_EFD), torch.empty_like(down_EDW)
        d_weight_S = torch.empty_like(weight_S1[:, 0])
        pieces = zip(token_S.split(counts), weight_S1.split(counts), gate_up_SF.split(counts),
                     d_weight_S.split(counts), strict=True)  # fmt: skip
        for e, (token, weight, gate_up, d_weight) in enumerate(pieces):
            gate, up = gate_up.chunk(2, dim=-1)
            sigmoid = torch.sigmoid(gate)
            silu = gate * sigmoid
            inner = silu * up
            dy = grad_TD.index_select(0, token)
            d_scaled = dy @ down_EDW[e]
            torch.mm(dy.T, inner * weight, out=d_down_EDW[e])
            torch.sum(d_scaled * inner, dim=-1, out=d_weight)
            d_inner = d_scaled.mul_(weight)
            slope = (1 - sigmoid).mul_(gate).add_(1).mul_(sigmoid)
            d_gate_up = torch.cat([d_inner * up * slope, d_inner * silu], dim=-1)
            torch.mm(d_gate_up.T, hidden_TD.index_select(0, token), out=d_gate_up_EFD[e])
            d_hidden_TD.index_add_(0, token, d_gate_up @ gate_up_EFD[e])
        d_weights = torch.empty_like(d_weight_S).index_copy_(0, order_S, d_weight_S)
        return d_hidden_TD, None, d_weights.view(len(grad_TD), -1), d_gate_up_EFD, d_down_EDW


def sorted_experts_forward(module, hidden_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    return SortedExperts.apply(hidden_TD, ids_TK, weights_TK, module.gate_up_proj, module.down_proj)


def use_for(model) -> None:
    """Makes `model` run its experts by `sorted_experts_forward`."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, sorted_experts_forward)
    model.set_experts_implementation(NAME)
