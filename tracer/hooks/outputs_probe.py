"""How the experts of a layer add to its residual stream, found out on a few tokens before a trace begins.

A layer adds its experts' output r to the residual stream x, times a constant s that differs by architecture
(scaling after the experts, residual multipliers), beside shared experts and whatever else. Nothing is assumed;
three facts are measured on the model itself:

1. the block run again with all gate weights 0 shows what the routed experts add to its output: block − block₀ = c·r;
2. that module of the layer is found whose tensor x satisfies layer output = x + a·block, or else
   layer output = x + a·block + b·(another module of the layer): shared experts or attention in parallel;
3. s = a·c, and any of these equations that does not hold is a reason to refuse.

Shapes: T token rows, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from ..routers.passages import Call
from ..routers.site import Site

Tokens = dict[str, Tensor]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Of equations between tensors of the model's dtype, relative to the largest of them."""

LEAST = 0.01
"""Smallest a that counts: below, the block's output is not what the layer adds."""


@dataclass(frozen=True)
class Place:
    """Where a residual stream can be seen: what a module gets first, or what it returns."""

    module: nn.Module
    side: Literal["in", "out"]
    index: int = 0
    """Which of the tensors that it returns."""

    def tensor(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        values = tensors(output) if self.side == "out" else tensors((*args, *kwargs.values()))
        return values[self.index] if self.index < len(values) else None


@dataclass
class Addition:
    """How one router's experts add to the residual stream."""

    call: Call | None
    """The experts' call in the probe, until it was checked."""
    residual: Place | None = None
    scale: float = 1.0
    """s: of what the experts module returns."""


@dataclass
class _Seen:
    """What passed around one router in the probe."""

    call: Call | None = None
    block: Call | None = None
    layer: Tensor | None = None
    places: list[tuple[Place, Tensor]] = field(default_factory=list)
    """Tensors of the layer before the block begins."""
    beside: list[Tensor] = field(default_factory=list)
    """What the layer's other modules returned, those left out that work on the block's output."""
    layer_module: nn.Module | None = None


def probe(model: nn.Module, sites: Sequence[Site], inputs: Tokens, *, residual: bool) -> dict[str, Addition]:
    """By router path: the experts' call on `inputs` and, if wanted, how it adds to the residual stream.

    Raises:
        CaptureError: a router for which that can't be told, with the reason.
    """
    modules = dict(model.named_modules())
    seen = {site.spec.router: _Seen() for site in sites}
    with ExitStack() as stack:
        for site in sites:
            if site.experts is None or site.passage.no_outputs:
                raise refused(site, site.passage.no_outputs or "its experts are not known as a module")
            for handle in _watch(site, seen[site.spec.router], modules, residual=residual):
                stack.callback(handle.remove)
        model(**inputs)
    return {site.spec.router: _addition(site, seen[site.spec.router], residual=residual) for site in sites}


def refused(site: Site, reason: str, what: str = "the outputs of single experts") -> CaptureError:
    return CaptureError(f"{site.spec.experts or site.spec.router}: {what} can't be recorded: {reason}")


def _watch(site: Site, seen: _Seen, modules: dict[str, nn.Module], *, residual: bool) -> list[Any]:
    def experts_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.call = Call(module, args, kwargs, output)

    assert site.experts is not None
    block_path, layer_path = _block_and_layer(site, modules) if residual else ("", "")
    handles = [site.experts.register_forward_hook(experts_ran, with_kwargs=True)]
    if not residual:
        return handles

    def block_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.block = Call(module, args, kwargs, output)

    def layer_ran(module: nn.Module, args: Any, output: Any) -> None:
        seen.layer = next(iter(tensors(output)), None)

    def passed(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if seen.call is None:
            side = "in" if output is None else "out"
            for index, value in enumerate(tensors(output if side == "out" else (*args, *kwargs.values()))):
                seen.places.append((Place(module, side, index), value))

    def returned(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        blocks = tensors(seen.block.output)[:1] if seen.block is not None else []
        received = tensors((*args, *kwargs.values()))
        if not any(value.data_ptr() == block.data_ptr() for value in received for block in blocks):
            seen.beside.extend(tensors(output)[:1])

    layer = seen.layer_module = modules[layer_path]
    handles.append(modules[block_path].register_forward_hook(block_ran, with_kwargs=True))
    handles.append(layer.register_forward_hook(layer_ran))
    handles.append(layer.register_forward_pre_hook(passed, with_kwargs=True))
    for name, child in layer.named_modules():
        path = f"{layer_path}.{name}"
        if name and name.count(".") < 2 and not f"{path}.".startswith(f"{block_path}."):
            handles.append(child.register_forward_pre_hook(passed, with_kwargs=True))
            handles.append(child.register_forward_hook(passed, with_kwargs=True))
            if "." not in name:
                handles.append(child.register_forward_hook(returned, with_kwargs=True))
    return handles


def _block_and_layer(site: Site, modules: dict[str, nn.Module]) -> tuple[str, str]:
    """Paths of the layer's module that holds the experts, and of the layer."""
    path = str(site.spec.experts)
    parts = path.split(".")
    lists = [i for i, part in enumerate(parts) if part.isdigit()]
    numbered = [i for i in lists if isinstance(modules[".".join(parts[:i])], nn.ModuleList)]
    layer = ".".join(parts[: numbered[0] + 1]) if numbered else ""
    block = ".".join(parts[: layer.count(".") + 2])
    if not numbered or block == path:
        raise _no_similarity(
            site, "they are no block of their own whose output a layer adds to a residual stream"
        )
    return block, layer


def _addition(site: Site, seen: _Seen, *, residual: bool) -> Addition:
    if seen.call is None:
        raise refused(site, "they did not run on the first tokens of the prompts")
    if not residual:
        return Addition(seen.call)
    within = _scale_in_block(site, seen)
    place, beyond = _residual(site, seen)
    return Addition(seen.call, place, within * beyond)


def _scale_in_block(site: Site, seen: _Seen) -> float:
    """c of block − block₀ = c·r."""
    assert seen.block is not None
    assert seen.call is not None
    assert site.experts is not None
    routed_TH = site.passage.routed(seen.call).float()
    output = _like(tensors(seen.block.output), routed_TH.numel())
    if output is None:
        raise _no_similarity(site, "their output passes a projection before it is added")

    def unweighted(module: nn.Module, args: Any, kwargs: Any) -> Any:
        call = Call(module, args, kwargs)
        ids_TK, weights_TK = site.passage.read(call)
        site.passage.write(call, ids_TK.clamp(min=0), None if weights_TK is None else weights_TK * 0)
        return call.args, call.kwargs

    handle = site.experts.register_forward_pre_hook(unweighted, with_kwargs=True)
    try:
        without = _like(tensors(seen.block.module(*seen.block.args, **seen.block.kwargs)), routed_TH.numel())
    finally:
        handle.remove()
    assert without is not None
    added_TH = (output.float() - without.float()).reshape(routed_TH.shape)
    scale, error = _fit(added_TH, [routed_TH], output)
    if error > tolerance(output):
        raise _no_similarity(
            site, "what the layer adds is not their summed output (a norm or projection follows)"
        )
    return _nearest(scale, tolerance(output), [seen.block.module])


def _residual(site: Site, seen: _Seen) -> tuple[Place, float]:
    """x and a of layer output = x + a·block (+ b·another)."""
    assert seen.block is not None
    assert seen.layer_module is not None
    block = next(iter(tensors(seen.block.output)), None)
    if seen.layer is None or block is None or block.numel() != seen.layer.numel():
        raise _no_similarity(site, "the output of their layer is no residual stream of the experts' width")
    beside = [y for y in seen.beside if y.numel() == block.numel()]
    for sources in ([[block]], [[block, y] for y in beside]):
        fits = [
            (*_fit(_minus(seen.layer, x), parts, seen.layer), place)
            for place, x in seen.places
            if x.numel() == block.numel()
            for parts in sources
        ]
        scale, error, place = min(fits, key=lambda fit: fit[1], default=(0.0, 1.0, None))
        if place is not None and error <= tolerance(seen.layer) and abs(scale) > LEAST:
            return place, _nearest(scale, tolerance(seen.layer), [seen.block.module, seen.layer_module])
    raise _no_similarity(site, "their layer does not simply add their block's output to a residual stream")


def _minus(output: Tensor, x: Tensor) -> Tensor:
    return output.float() - x.reshape(output.shape).float()


def _fit(target: Tensor, sources: Sequence[Tensor], reference: Tensor) -> tuple[float, float]:
    """Factor of the first source in the sum of sources that is nearest to the target, and what is left then,
    relative to the reference."""
    parts_NS = torch.stack([source.reshape(-1).double() for source in sources], dim=-1)
    target_N1 = target.reshape(-1, 1).double()
    gram_SS = parts_NS.T @ parts_NS
    factors_S1 = torch.linalg.pinv(gram_SS, hermitian=True) @ (parts_NS.T @ target_N1)
    error = (target_N1 - parts_NS @ factors_S1).norm() / reference.double().norm().clamp_min(1e-30)
    scale = float(factors_S1[0, 0])
    return scale, float(error) if scale and error.isfinite() else 1.0


def _nearest(scale: float, within: float, modules: Sequence[nn.Module]) -> float:
    """The constant of the model that was meant: measured in bfloat16 it is not exact."""
    constants = [1.0] + [v for m in modules for v in vars(m).values() if isinstance(v, float)]
    best = min(constants, key=lambda value: abs(value - scale))
    return best if abs(best - scale) <= within * abs(scale) else scale


def _no_similarity(site: Site, reason: str) -> CaptureError:
    return refused(site, reason, "similarity")


def _like(values: list[Tensor], size: int) -> Tensor | None:
    return next((value for value in values if value.numel() == size), None)


def tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors of a module's output or arguments, in order."""
    values = output if isinstance(output, (tuple, list)) else (output,)
    return [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]


def tolerance(like: Tensor) -> float:
    return TOLERANCE.get(like.dtype, 1e-4)
