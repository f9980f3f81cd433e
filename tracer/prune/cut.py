"""Takes experts out of a model in memory: their weights, their rows of the router, their number in the configuration.

`merge` puts experts together by the same steps.

Shapes: E experts before, M after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import TracerError
from ..routers.site import Site
from .smaller import counted_in, reduced


class PruneError(TracerError):
    """A model that can't be pruned to these experts; nothing was written."""


def check(model: Any, sites: Sequence[Site], kept: Mapping[int, Sequence[int]]) -> int:
    """M, where the shape allows it.

    Raises:
        PruneError: layers of different sizes, fewer experts than a token uses, groups of unequal size, routers without
            logits, no known name for the number of experts.
    """
    sizes = {site.spec.num_experts for site in sites}
    numbers = {len(kept.get(site.spec.layer, ())) for site in sites}
    if len({site.spec.layer for site in sites}) < len(sites):
        raise PruneError("the model has several routers a layer: a checkpoint can't be pruned for both")
    if len(sizes) != 1 or len(numbers) != 1:
        raise PruneError(
            f"all layers must have, and keep, the same number of experts: they keep {sorted(numbers)} "
            f"of {sorted(sizes)}"
        )
    (experts,), (left,) = sizes, numbers
    top_k = max((site.spec.top_k or 1) for site in sites)
    if left < top_k:
        raise PruneError(f"a token uses {top_k} experts: keep at least as many, not {left}")
    if fixed := next((site for site in sites if not site.spec.steerable), None):
        raise PruneError(
            f"the router of layer {fixed.spec.layer} can't do without experts. {fixed.spec.note}"
        )
    config = model.config.get_text_config()
    if not counted_in(model.config, experts):
        raise PruneError(
            f"{type(config).__name__} names the number of experts ({experts}) in a field that moescope does not know"
        )
    groups = getattr(config, "n_group", None) or 1
    for site in sites:
        in_group = [sum(e * groups // experts == g for e in kept[site.spec.layer]) for g in range(groups)]
        if len(set(in_group)) > 1:
            raise PruneError(
                f"layer {site.spec.layer}: its router chooses among {groups} groups of experts, so each group must "
                f"keep the same number; these would keep {in_group}"
            )
    return left


def cut(model: Any, sites: Sequence[Site], kept: Mapping[int, Sequence[int]]) -> None:
    """Cut the model itself; `check` comes before.

    Raises:
        PruneError: weights of experts in a form that is not known here.
    """
    left = check(model, sites, kept)

    def chosen(layer: int, rows: Tensor) -> Tensor:
        return rows.index_select(0, torch.as_tensor(sorted(kept[layer]), device=rows.device))

    try:
        reduced(model, sites, left, chosen)
    except ValueError as error:
        raise PruneError(str(error)) from error
