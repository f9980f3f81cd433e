"""Makes a model in memory one of fewer experts, whatever its experts are called and however they are stored.

1. A second model of the same class, with the smaller number in its configuration, is built without memory (on the
   device `meta`).
2. Every weight whose shape differs there has a row, or a block of rows, an expert; every list of modules that is
   shorter there holds an expert a module; every number that differs there counts experts.
3. Each is changed layer by layer, by the router that its name is nearest to.

Shapes: E experts before, M after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ..routers.site import Site

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
"""What configurations call the number of experts."""

Change = Callable[[int, Tensor], Tensor]
"""From a layer and rows (E, ...) of its experts to the rows (M, ...) of those that stay."""
Undo = list[Callable[[], None]]


def counted_in(config: Any, experts: int) -> list[tuple[Any, str]]:
    """Where a configuration, or one within it, says that there are so many experts."""
    inner = [
        value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type")
    ]
    own = [(config, name) for name in COUNTS if getattr(config, name, None) == experts]
    return own + [place for part in inner for place in counted_in(part, experts)]


def reduced(model: Any, sites: Sequence[Site], left: int, change: Change) -> Undo:
    """Change the model itself; returns how to take each step back.

    Raises:
        ValueError: weights that hold experts in a form that is not known here; the model is whole again.
    """
    experts = sites[0].spec.num_experts
    smaller = _smaller(model, experts, left)
    undo: Undo = []
    try:
        for path, module in list(model.named_modules()):
            if (twin := _at(smaller, path)) is None:
                continue
            if isinstance(module, nn.ModuleList) and (len(module), len(twin)) == (experts, left):
                undo += _list(module, _layer_of(path, sites), change)
            undo += _weights(path, module, twin, sites, change, experts, left)
            undo += _numbers(module, twin, experts, left)
        for owner, name in counted_in(model.config, experts):
            setattr(owner, name, left)
            undo.append(lambda owner=owner, name=name: setattr(owner, name, experts))
    except BaseException:
        take_back(undo)
        raise
    return undo


def take_back(undo: Undo) -> None:
    """Undo steps, the last one first."""
    for step in reversed(undo):
        step()


def _smaller(model: Any, experts: int, left: int) -> nn.Module:
    config = copy.deepcopy(model.config)
    for owner, name in counted_in(config, experts):
        setattr(owner, name, left)
    with torch.device("meta"):
        return type(model)(config)


def _at(model: nn.Module, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _weights(
    path: str, module: nn.Module, twin: nn.Module, sites: Sequence[Site], change: Change, experts: int, left: int
) -> Undo:  # fmt: skip
    undo: Undo = []
    for store, name, value in _held(module):
        other = getattr(twin, name, None)
        if not isinstance(other, Tensor) or other.shape == value.shape:
            continue
        where = f"{path}.{name}"
        layer, dim = _layer_of(where, sites), _dimension(where, value, other, experts, left)
        block = value.shape[dim] * left == other.shape[dim] * experts
        new = _along(dim, value.detach(), experts, block, lambda rows, layer=layer: change(layer, rows))
        store[name] = nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new
        undo.append(lambda store=store, name=name, value=value: store.__setitem__(name, value))
    return undo


def _held(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for store in (module._parameters, module._buffers):
        yield from [(store, name, value) for name, value in store.items() if value is not None]  # pyright: ignore[reportReturnType]


def _dimension(where: str, value: Tensor, other: Tensor, experts: int, left: int) -> int:
    """The one dimension that is shorter, as so many experts are."""
    same = value.dim() == other.dim()
    differ = [at for at in range(value.dim()) if same and value.shape[at] != other.shape[at]]
    if len(differ) == 1 and _fewer(value.shape[differ[0]], other.shape[differ[0]], experts, left):
        return differ[0]
    raise ValueError(
        f"{where} would change from {tuple(value.shape)} to {tuple(other.shape)}: not a row or a block of rows an "
        "expert, so these experts can't be cut here"
    )


def _fewer(before: int, after: int, experts: int, left: int) -> bool:
    """Whether two sizes differ as experts do: a block for each, or one for each and some more for others."""
    return before * left == after * experts or before - after == experts - left


def _along(dim: int, value: Tensor, experts: int, block: bool, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change along a dimension that holds a block of rows an expert, or a row an expert and then others."""
    rows = value.movedim(dim, 0)
    if block:
        new = change(rows.unflatten(0, (experts, -1))).flatten(0, 1)
    else:  # Rows of shared experts stand behind those of the routed ones.
        new = torch.cat([change(rows[:experts]), rows[experts:]])
    return new.movedim(0, dim).contiguous()


def _list(modules: nn.ModuleList, layer: int, change: Change) -> Undo:
    """Put as many experts as stay into the list, each with the changed rows of all experts' weights."""
    before = list(modules)
    stacked = {name: [dict(_tensors(module))[name] for module in before] for name, _ in _tensors(before[0])}
    rows = {
        name: change(layer, torch.stack([v.detach() for v in values])) for name, values in stacked.items()
    }
    made = [copy.deepcopy(before[0]) for _ in next(iter(rows.values()))]
    for at, module in enumerate(made):
        for name, value in _tensors(module):
            value.data = rows[name][at].clone()
    _fill(modules, made)
    return [lambda: _fill(modules, before)]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _fill(modules: nn.ModuleList, new: Sequence[nn.Module]) -> None:
    del modules[:]
    modules.extend(new)


def _numbers(module: nn.Module, twin: nn.Module, experts: int, left: int) -> Undo:
    """Set what counts experts in a module: whole numbers that differ in the smaller model."""
    undo: Undo = []
    for name, value in list(vars(module).items()):
        other = vars(twin).get(name)
        if (
            type(value) is int
            and type(other) is int
            and value != other
            and _fewer(value, other, experts, left)
        ):
            setattr(module, name, other)
            undo.append(lambda name=name, value=value: setattr(module, name, value))
    return undo


def _layer_of(path: str, sites: Sequence[Site]) -> int:
    """The layer of the router whose path begins most like this one.

    Raises:
        ValueError: several begin as much like it.
    """
    near = [_alike(path.split("."), site.spec.router.split(".")) for site in sites]
    if near.count(max(near)) > 1:
        raise ValueError(f"{path} depends on the number of experts, and belongs to no single router")
    return sites[near.index(max(near))].spec.layer


def _alike(a: Sequence[str], b: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
