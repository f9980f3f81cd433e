"""Merges experts of a model in memory: the weights of a cluster, and its rows of the router, become their mean.

W = Σ f W / Σ f over the experts of a cluster, f how often each is used (Sub-MoE, arXiv 2506.23266, whose untruncated
subspace merge equals this). The merged expert's row of the router is the same mean: a plain checkpoint with fewer
experts has one logit for each, so tokens are not routed exactly as the whole model routes them.

Shapes: E experts before, M after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..routers.find import find_sites
from .cut import PruneError, check
from .smaller import reduced, take_back

Clusters = Mapping[int, Sequence[int]]
"""Layer → cluster of each of its experts; clusters are numbered by their first expert."""


def representatives(clusters: Clusters) -> dict[int, list[int]]:
    """Layer → the first expert of each cluster."""
    return {layer: np.unique(list(one), return_index=True)[1].tolist() for layer, one in clusters.items()}


@contextmanager
def merged_experts(
    model: Any, clusters: Clusters, frequency: Mapping[int, Sequence[float]]
) -> Iterator[None]:
    """The model with merged experts while the context is open; its own again afterwards, whatever happens.

    Args:
        frequency: layer → how often each expert is used; where a cluster is never used its experts count alike.
    Raises:
        PruneError: a model whose experts can't be put together so.
    """
    sites = find_sites(model)
    left = check(model, sites, representatives(clusters))
    share = {site.spec.layer: mixing(clusters[site.spec.layer], frequency[site.spec.layer]) for site in sites}
    try:
        undo = reduced(model, sites, left, lambda layer, rows: _mixed(rows, share[layer]))
    except ValueError as error:
        raise PruneError(str(error)) from error
    try:
        yield
    finally:
        take_back(undo)


def mixing(cluster: Sequence[int], frequency: Sequence[float]) -> Tensor:
    """(M, E) float64: the share of each expert in each merged one; rows sum to 1."""
    label_E, uses_E = np.asarray(cluster), np.asarray(frequency, np.float64)
    member_ME = np.arange(label_E.max() + 1)[:, None] == label_E
    use_ME = member_ME * uses_E
    unused_M1 = use_ME.sum(1, keepdims=True) == 0
    use_ME = np.where(unused_M1, member_ME, use_ME)
    return torch.from_numpy(use_ME / use_ME.sum(1, keepdims=True))


def _mixed(value: Tensor, share_ME: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise PruneError(f"weights of type {value.dtype} can't be averaged: merge the unquantised checkpoint")
    # Cluster by cluster: a float64 copy of all experts of a layer at once may not fit.
    rows = []
    for share_E in share_ME:
        members = share_E.nonzero().flatten()
        if len(members) == 1:
            rows.append(value[int(members)].clone())
            continue
        share = share_E[members].to(value.device, torch.float32)
        rows.append(torch.tensordot(share, value[members.to(value.device)].float(), 1).to(value.dtype))
    return torch.stack(rows)
