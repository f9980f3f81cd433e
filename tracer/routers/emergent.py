"""Emergent experts: a dense transformer seen as a Mixture of Experts, without training.

After Qiu et al., "Unlocking Emergent Modularity in Large Language Models" (arXiv 2310.10908): the neurons of a
feed-forward layer are split into groups of equal size by what they listen to.

1. The rows of the first (gate) weight, normalised, are clustered by a balanced k-means (`emergent_groups`).
2. A group's key is the mean of its rows; a token's score for a group is hidden · key, which for a gated layer
   is the group's mean gate pre-activation.
3. The k groups with the highest scores keep their neurons, the others are zeroed. There are no gate weights.

These groups were never trained as experts; whoever shows them must say so.

Shapes: T tokens, H hidden width, F neurons, E groups, K groups kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TracerError
from .emergent_groups import balanced_groups
from .naming import layer_and_stack

NOTE = (
    "These groups of neurons were never trained as experts; their probabilities are the softmax of the group "
    "scores, a choice of this tool."
)
GATES, UPS, DOWNS = ("gate_proj", "w1", "wi_0"), ("up_proj", "w3", "wi_1"), ("down_proj", "w2", "wo")
FIRSTS = ("fc1", "dense_h_to_4h", "c_fc", "fc_in", "lin1", "wi", "up_proj", "intermediate_dense")
SECONDS = ("fc2", "dense_4h_to_h", "c_proj", "fc_out", "lin2", "wo", "down_proj", "output_dense")
ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation", "gelu_impl")


Parts = tuple[Any, Any, Any, Any]
"""First (gate) layer, up layer or None, down layer, activation."""


class EmergentError(TracerError):
    """A dense model whose feed-forward layers can't be split."""


def emergent_moe(
    model: nn.Module,
    num_experts: int,
    top_k: int | None = None,
    layers: Iterable[int] | None = None,
    seed: int = 0,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """View a dense transformer as a Mixture of Experts.

    Args:
        model: a transformer with gated or plain feed-forward layers; changed in place (`dense_again` undoes it).
        num_experts: E, groups of neurons in a layer; must divide the number of neurons.
        top_k: groups that each token keeps. None leaves the model's output as it is and traces all groups,
            weighted by their share of the activation mass.
        layers: only these layers (default: all with a feed-forward layer).
        seed: of the clustering.
        progress: told how many layers are split, and of how many.
    Returns:
        The model; `find_routers`, `record_routing` and `Steering` work on it.
    Raises:
        EmergentError: no feed-forward layer is found, or its neurons can't be split evenly.
        ValueError: num_experts or top_k is out of range.
    """
    if num_experts < 1 or (top_k is not None and not 1 <= top_k <= num_experts):
        raise ValueError(f"top_k must be between 1 and num_experts ({num_experts}), not {top_k}")
    modules = dict(model.named_modules())
    wanted = None if layers is None else set(layers)
    found = {
        path: (layer, parts)
        for path, module in modules.items()
        if (parts := feed_forward(module)) is not None
        for layer in [layer_and_stack(path, modules)[0]]
        if wanted is None or layer in wanted
    }
    if not found:
        raise EmergentError(f"no feed-forward layers to split were found in {type(model).__name__}")
    # Everything is split before anything is replaced, so that an error leaves the model as it was.
    split: dict[str, EmergentMoE] = {}
    for path, (layer, parts) in found.items():
        split[path] = EmergentMoE(modules[path], parts, num_experts, top_k, seed + layer)
        if progress is not None:
            progress(len(split), len(found))
    for path, layer in split.items():
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, layer)
    return model


def dense_again(model: nn.Module) -> nn.Module:
    """Take `emergent_moe` back."""
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, EmergentMoE):
                setattr(module, name, child.dense)
    return model


class EmergentMoE(nn.Module):
    """A feed-forward layer whose neurons are chosen by groups."""

    def __init__(
        self, dense: nn.Module, parts: Parts, num_experts: int, top_k: int | None, seed: int
    ) -> None:
        super().__init__()
        self.dense = dense
        self._parts = parts
        weight_FH = _rows(parts[0])
        if len(weight_FH) % num_experts:
            raise EmergentError(f"{len(weight_FH)} neurons cannot be split into {num_experts} equal groups")
        group_F = balanced_groups(weight_FH, num_experts, seed=seed).to(weight_FH.device)
        self.router = EmergentRouter(weight_FH, group_F, num_experts, top_k)
        self.experts = EmergentExperts(group_F, num_experts, trace_only=top_k is None)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up, down, act = self._parts
        neurons = act(gate(hidden)) if up is None else act(gate(hidden)) * up(hidden)
        neurons_TF = neurons.reshape(-1, neurons.shape[-1])
        _, weights_TK, ids_TK = self.router(hidden.reshape(-1, hidden.shape[-1]), neurons_TF)
        return down(self.experts(neurons_TF, ids_TK, weights_TK).reshape(neurons.shape))

    def down_alone(self, neurons_TF: Tensor) -> Tensor:
        """(T, H): what these neurons add to the layer's output, its bias left out."""
        return F.linear(neurons_TF, _rows(self._parts[2]))

    def alone(self, neurons_NF: Tensor, ids_N: Tensor) -> Tensor:
        """(N, H): what one group each adds to the layer's output with these neurons."""
        down_HF = _rows(self._parts[2])
        out_NH = neurons_NF.new_zeros(len(ids_N), len(down_HF))
        for group in ids_N.unique().tolist():
            rows, members = ids_N == group, self.experts.group == group
            out_NH[rows] = F.linear(neurons_NF[rows][:, members], down_HF[:, members])
        return out_NH


class EmergentRouter(nn.Module):
    """Scores the groups by their keys."""

    def __init__(self, weight_FH: Tensor, group_F: Tensor, num_experts: int, top_k: int | None) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.kept = top_k
        keys_EH = weight_FH.new_zeros(num_experts, weight_FH.shape[1]).float()
        keys_EH.index_add_(0, group_F, weight_FH.float())
        keys_EH = (keys_EH * (num_experts / len(group_F))).to(weight_FH.dtype)
        self.register_buffer("weight", keys_EH, persistent=False)
        self.register_buffer("group", group_F, persistent=False)

    @property
    def top_k(self) -> int:
        return self.kept or self.num_experts

    def forward(self, hidden_TH: Tensor, neurons_TF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (T, E), weights (T, K), ids (T, K). Weights are 1, or the groups' shares of the activation
        mass where all are kept and only looked at."""
        weight_EH: Any = self.weight
        scores_TE = F.linear(hidden_TH, weight_EH)
        top_TK, ids_TK = scores_TE.topk(self.top_k, dim=-1)
        if self.kept is not None:
            return scores_TE, torch.ones_like(top_TK), ids_TK
        group_F: Any = self.group
        mass_TE = group_mass(neurons_TF, group_F, self.num_experts)
        return scores_TE, mass_TE.gather(-1, ids_TK), ids_TK


class EmergentExperts(nn.Module):
    """Keeps the neurons of the chosen groups."""

    def __init__(self, group_F: Tensor, num_experts: int, *, trace_only: bool) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.trace_only = trace_only
        self.register_buffer("group", group_F, persistent=False)

    def forward(self, neurons_TF: Tensor, expert_ids: Tensor, expert_weights: Tensor) -> Tensor:
        """Neurons (T, F) times their group's factor: 1 where kept, 0 where not, between under steering."""
        group_F: Any = self.group
        factor_TK = self.factors(neurons_TF, expert_ids, expert_weights)
        factor_TE = neurons_TF.new_zeros(len(neurons_TF), self.num_experts)
        factor_TE = factor_TE.scatter_add(-1, expert_ids, factor_TK.to(neurons_TF.dtype))
        return neurons_TF * factor_TE[:, group_F]

    def factors(self, neurons_TF: Tensor, expert_ids: Tensor, expert_weights: Tensor) -> Tensor:
        """(T, K): of each named group, 1 unless a steering changed its weight."""
        if not self.trace_only:
            return expert_weights
        group_F: Any = self.group
        mass_TK = group_mass(neurons_TF, group_F, self.num_experts).gather(-1, expert_ids)
        return torch.where(mass_TK == 0, 1, expert_weights / mass_TK)


def group_mass(neurons_TF: Tensor, group_F: Tensor, num_experts: int) -> Tensor:
    """(T, E) share of each group in a token's summed absolute activations."""
    mass_TF = neurons_TF.abs().float()
    mass_TE = mass_TF.new_zeros(len(mass_TF), num_experts).index_add(1, group_F, mass_TF)
    return mass_TE / mass_TE.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def feed_forward(module: nn.Module) -> Parts | None:
    """(gate, up, down, activation) of a gated feed-forward layer, (first, None, second, activation) of a plain
    one, None for any other module."""
    act = next((a for name in ACTIVATIONS if callable(a := getattr(module, name, None))), None)
    if act is None or not re.search(r"MLP|FeedForward|FFN|Dense(Gated)?Act", type(module).__name__):
        return None
    gate, up, down = (_first(module, names) for names in (GATES, UPS, DOWNS))
    if gate is not None and up is not None and down is not None:
        return gate, up, down, act
    first, second = _first(module, FIRSTS), _first(module, SECONDS)
    return None if first is None or second is None or first is second else (first, None, second, act)


def _first(module: nn.Module, names: tuple[str, ...]) -> Any:
    return next(
        (child for name in names if isinstance(child := getattr(module, name, None), nn.Module)), None
    )


def _rows(layer: Any) -> Tensor:
    """(F, H) weight of a linear layer, also of GPT-2's transposed one."""
    weight = layer.weight.detach()
    return weight.T if type(layer).__name__ == "Conv1D" else weight
