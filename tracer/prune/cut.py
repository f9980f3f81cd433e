"""Takes experts out of a model in memory: their weights, their rows of the router, their number in the configuration.

`merge` puts experts together by the same steps.

Shapes: E experts before, M after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TracerError
from ..routers.site import Site

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
"""What configurations and modules call the number of experts."""


class PruneError(TracerError):
    """A model that can't be pruned to these experts; nothing was written."""


def check(model: Any, sites: Sequence[Site], kept: Mapping[int, Sequence[int]]) -> int:
    """M, where the shape allows it.

    Raises:
        PruneError: layers of different sizes, fewer experts than a token uses, groups of unequal size, no known name
            for the number of experts.
    """
    sizes = {site.spec.num_experts for site in sites}
    numbers = {len(kept.get(site.spec.layer, ())) for site in sites}
    if len(sizes) != 1 or len(numbers) != 1:
        raise PruneError(
            f"every layer must keep as many experts of as many: {sorted(numbers)} of {sorted(sizes)}"
        )
    (experts,), (left,) = sizes, numbers
    if len({site.spec.layer for site in sites}) < len(sites):
        raise PruneError("the model has several routers a layer: a checkpoint can't be pruned for both")
    top_k = max((site.spec.top_k or 1) for site in sites)
    if left < top_k:
        raise PruneError(f"a token uses {top_k} experts: at least as many must stay, not {left}")
    config = model.config.get_text_config()
    if not any(getattr(config, name, None) == experts for name in COUNTS):
        raise PruneError(
            f"{type(config).__name__} does not say the number of experts by a name that is known here"
        )
    groups = getattr(config, "n_group", None) or 1
    for site in sites:
        in_group = [sum(e * groups // experts == g for e in kept[site.spec.layer]) for g in range(groups)]
        if len(set(in_group)) > 1:
            raise PruneError(
                f"layer {site.spec.layer}: its router chooses among {groups} groups of experts, so each must keep as "
                f"many; these would keep {in_group}"
            )
    return left


def cut(model: Any, sites: Sequence[Site], kept: Mapping[int, Sequence[int]]) -> None:
    """Cut the model itself; `check` comes before.

    Raises:
        PruneError: an experts module that holds its experts in another form.
    """
    left = check(model, sites, kept)
    experts = sites[0].spec.num_experts
    for site in sites:
        index = torch.as_tensor(sorted(kept[site.spec.layer]))

        def chosen(value: Tensor, index: Tensor = index) -> Tensor:
            return value.index_select(0, index.to(value.device)).clone()

        reduce(experts_of(site, experts), experts, chosen)
        reduce(site.router, experts, chosen)
    rename_counts(model, experts, left)


def experts_of(site: Site, experts: int) -> nn.Module:
    """A site's experts module, where its weights are stacked by expert.

    Raises:
        PruneError: they are held in another form.
    """
    assert site.experts is not None
    if isinstance(site.experts, nn.ModuleList) and len(site.experts) == experts:
        raise PruneError(f"{site.spec.experts}: experts in a list are not cut here")
    if not any(_is_stacked(value, experts) for _, _, value in _held(site.experts)):
        raise PruneError(
            f"{site.spec.experts} ({type(site.experts).__name__}): no weights are stacked by expert"
        )
    return site.experts


def reduce(module: nn.Module, experts: int, change: Callable[[Tensor], Tensor]) -> list[Callable[[], None]]:
    """Change all parameters and buffers that have a row an expert; returns how to take each back."""
    undo: list[Callable[[], None]] = []
    for store, name, value in list(_held(module)):
        if _is_stacked(value, experts):
            new = change(value.detach())
            store[name] = nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new
            undo.append(lambda store=store, name=name, value=value: store.__setitem__(name, value))
    return undo


def _held(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            yield from ((store, name, value) for name, value in store.items() if value is not None)  # pyright: ignore[reportReturnType]


def _is_stacked(value: Tensor, experts: int) -> bool:
    return value.dim() > 0 and value.shape[0] == experts


def rename_counts(model: Any, experts: int, left: int) -> list[Callable[[], None]]:
    """Set the number of experts wherever the model or its configuration says it; returns how to take each back."""
    places = [
        (module, name)
        for module in model.modules()
        for name in (*COUNTS, "out_features")
        if vars(module).get(name) == experts and (name != "out_features" or _is_router(module, left))
    ]
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    places += [(c, name) for c in configs for name in COUNTS if getattr(c, name, None) == experts]
    for owner, name in places:
        setattr(owner, name, left)
    return [lambda owner=owner, name=name: setattr(owner, name, experts) for owner, name in places]


def _is_router(module: nn.Module, left: int) -> bool:
    """Whether a linear layer was cut: its weight has fewer rows than it says."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.shape[0] == left
