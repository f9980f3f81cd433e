"""Routers that the user declares: any PyTorch module that chooses experts, or weighs them.

A `DeclaredRouter` says where a router's logits, ids and gate weights are; at least one of ids, weights and
logits must be given. What is missing is derived from what is there, and only so: ids from dense weights
(T, E) are the experts whose weight is not 0; without weights the order is that of the logits.

Shapes: T rows that the router decides on (tokens, patches, images, tasks), K experts, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...store.schema import RouterSpec
from ..errors import UnknownRouterError
from .naming import layer_and_stack
from .passages import Call, Passage, flat
from .site import Site, logits_weight

Where = int | str | Callable[[Call], Tensor | None] | None
"""Index into the module's output, name of an attribute of the module or of its output, or a function of the
`Call` (module, args, kwargs, output)."""


@dataclass(frozen=True, kw_only=True)
class DeclaredRouter(RouterSpec):
    """A router that no mechanism finds by itself.

    `router` is a module path; `*` in it stands for one segment, and the first number that it matches is the
    layer (unless `layer` is given). Each match becomes one router.
    """

    layer: int = -1
    logits: Where = None
    """Where the logits (..., E) are."""
    ids: Where = None
    """Where the chosen ids (..., K) are; -1 is an empty slot."""
    weights: Where = None
    """Where the gate weights are: (..., K) beside the ids, or (..., E) for all experts."""

    def concrete(self, path: str, layer: int) -> RouterSpec:
        """The plain RouterSpec of one module that matches."""
        values = {f.name: getattr(self, f.name) for f in fields(RouterSpec)}
        note = self.note
        if self.owners is not None:
            ids = {owner: [e for e, o in enumerate(self.owners) if o == owner] for owner in set(self.owners)}
            own = "; ".join(f"experts {_ranges(ids[owner])} belong to layer {owner}" for owner in sorted(ids))
            note = f"{note} {own[0].upper()}{own[1:]}.".strip()
            values["owners"] = tuple(self.owners)
        return RouterSpec(**values | {"router": path, "layer": layer, "note": note, "found_by": "declared"})


@dataclass
class DeclaredPassage(Passage):
    """Reads and rewrites the output of a declared router."""

    router: DeclaredRouter
    at = "router"

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        ids, weights = (_rows(find(where, call)) for where in (self.router.ids, self.router.weights))
        if ids is None and weights is not None:
            order_TE = weights.argsort(dim=-1, descending=True, stable=True)
            sorted_TE = weights.gather(-1, order_TE)
            return order_TE.where(sorted_TE != 0, -1), sorted_TE
        if ids is None:
            logits_TE = _rows(find(self.router.logits, call))
            assert logits_TE is not None
            count = self.router.top_k or self.router.num_experts
            return logits_TE.topk(count, dim=-1).indices, None
        if weights is not None and weights.shape != ids.shape:
            weights = weights.gather(-1, ids.clamp(min=0)).where(ids >= 0, 0)
        return ids, weights

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        weights = find(self.router.weights, call)
        assert weights is not None
        assert weights_TK is not None
        ids = find(self.router.ids, call)
        if ids is not None and weights.shape == ids.shape:
            _put(call, self.router.ids, ids_TK.reshape(ids.shape).to(ids.dtype))
            _put(call, self.router.weights, weights_TK.reshape(weights.shape).to(weights.dtype))
            return
        zeros_TE = torch.zeros_like(flat(weights))
        dense_TE = zeros_TE.scatter_add(-1, ids_TK, weights_TK.to(zeros_TE.dtype))
        _put(call, self.router.weights, dense_TE.reshape(weights.shape))


def find(where: Where, call: Call) -> Tensor | None:
    """The tensor that `where` points at in a call."""
    if where is None:
        return None
    if isinstance(where, int):
        return call.output[where] if isinstance(call.output, (tuple, list)) else call.output
    if isinstance(where, str):
        owner = call.output if hasattr(call.output, where) else call.module
        return call.output[where] if isinstance(call.output, dict) else getattr(owner, where)
    return where(call)


def _put(call: Call, where: Where, value: Tensor) -> None:
    if isinstance(where, int) and isinstance(call.output, (tuple, list)):
        values = [value if i == where % len(call.output) else old for i, old in enumerate(call.output)]
        call.output = type(call.output)(values)
    elif isinstance(where, int):
        call.output = value
    elif isinstance(where, str) and isinstance(call.output, dict):
        call.output = {**call.output, where: value}
    elif isinstance(where, str):
        setattr(call.output if hasattr(call.output, where) else call.module, where, value)


def _rows(values: Tensor | None) -> Tensor | None:
    return None if values is None else flat(values if values.dim() > 1 else values.unsqueeze(-1))


def declared_sites(declared: Sequence[DeclaredRouter], modules: dict[str, nn.Module]) -> list[Site]:
    """One site for each module that a declaration matches."""
    sites: list[Site] = []
    for router in declared:
        if router.ids is None and router.weights is None and router.logits is None:
            raise UnknownRouterError(f"the declaration of {router.router} names no ids, weights or logits")
        if router.owners is not None and len(router.owners) != router.num_experts:
            raise UnknownRouterError(
                f"the declaration of {router.router} names {len(router.owners)} owners for {router.num_experts} experts"
            )
        pattern = re.compile(re.escape(router.router).replace(r"\*", r"([^.]+)"))
        matches = [(path, match) for path in modules if (match := pattern.fullmatch(path))]
        if not matches:
            raise UnknownRouterError(f"no module of this model matches the declared router {router.router}")
        for path, match in matches:
            numbers = [int(part) for part in match.groups() if part.isdigit()]
            layer, stack = layer_and_stack(path, modules)
            layer = router.layer if router.layer >= 0 else next(iter(numbers), layer)
            sites.append(_declared_site(router, router.concrete(path, layer), modules[path], stack))
    return sites


def _declared_site(router: DeclaredRouter, spec: RouterSpec, module: nn.Module, stack: str) -> Site:
    weight = logits_weight(module)
    if weight is not None and weight.shape[0] != spec.num_experts:
        weight = None
    return Site(
        spec=replace(spec, steerable=spec.steerable and weight is not None),
        router=module,
        passage=DeclaredPassage(router),
        logits=partial(find, router.logits),
        weight=weight,
        normalises=False,
        stack=stack,
    )


def _ranges(ids: list[int]) -> str:
    return (
        f"{ids[0]} to {ids[-1]}"
        if ids == [*range(ids[0], ids[-1] + 1)] and len(ids) > 1
        else (", ".join(map(str, ids)))
    )
