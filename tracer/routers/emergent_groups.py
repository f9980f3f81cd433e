"""Balanced clustering of neurons into groups of equal size.

k-means with a capacity: every neuron proposes itself to the nearest group that has not refused it, a group keeps
the nearest of its proposers, and so on until nobody is refused. Deterministic for a seed.

Shapes: F neurons, H width, E groups of F / E neurons.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROUNDS = 20


def balanced_groups(weight_FH: Tensor, num_groups: int, *, seed: int = 0, rounds: int = ROUNDS) -> Tensor:
    """(F,) int64: the group of each neuron, each group with exactly F / E neurons.

    Rows are normalised first, so that neurons are grouped by direction. Groups are numbered by their first
    neuron.
    """
    unit_FH = torch.nn.functional.normalize(weight_FH.float(), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    start = _spread_start(unit_FH, num_groups, generator)
    centre_EH = unit_FH[start]
    group_F = _assign(unit_FH @ centre_EH.T)
    for _ in range(rounds):
        centre_EH = torch.zeros_like(centre_EH).index_add(0, group_F, unit_FH)
        centre_EH = torch.nn.functional.normalize(centre_EH, dim=-1)
        new_F = _assign(unit_FH @ centre_EH.T)
        if torch.equal(new_F, group_F):
            break
        group_F = new_F
    return _numbered(group_F, num_groups)


def _spread_start(unit_FH: Tensor, num_groups: int, generator: torch.Generator) -> Tensor:
    """Rows to start from: a random one, then each time the one least like those chosen (ties: the first)."""
    chosen = [int(torch.randint(len(unit_FH), (1,), generator=generator))]
    nearest_F = unit_FH @ unit_FH[chosen[0]]
    for _ in range(num_groups - 1):
        nearest_F[chosen] = torch.inf
        chosen.append(int(nearest_F.argmin()))
        nearest_F = torch.maximum(nearest_F, unit_FH @ unit_FH[chosen[-1]])
    return torch.tensor(chosen)


def _assign(similarity_FE: Tensor) -> Tensor:
    """(F,): groups of equal size, by deferred acceptance: no neuron and group would both rather swap."""
    similarity: np.ndarray = similarity_FE.cpu().numpy()
    neuron_F, groups = np.arange(len(similarity)), similarity.shape[1]
    room = len(similarity) // groups
    open_FE = similarity.copy()
    group_F = open_FE.argmax(1)
    while True:
        order_F = np.lexsort((-similarity[neuron_F, group_F], group_F))  # by group, the nearest first
        sorted_F = group_F[order_F]
        place_F = neuron_F - np.searchsorted(sorted_F, sorted_F)
        rejected = order_F[place_F >= room]
        if not len(rejected):
            return torch.from_numpy(group_F)
        open_FE[rejected, group_F[rejected]] = -np.inf
        group_F[rejected] = open_FE[rejected].argmax(1)


def _numbered(group_F: Tensor, num_groups: int) -> Tensor:
    """The same groups, numbered by their first neuron."""
    first_E = torch.stack([(group_F == group).nonzero()[0, 0] for group in range(num_groups)])
    return first_E.argsort().argsort()[group_F]
