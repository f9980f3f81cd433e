"""Finds the routers of a model: which modules choose experts, among how many, for which layer.

1. Every module whose forward takes hidden states, expert ids and gate weights is an experts module.
2. Its router is the sibling that scores the experts; the rows of the router's weight are the choices.
3. Architectures that don't fit have a short adapter in `adapters`; routers from elsewhere are declared
   with a `DeclaredRouter`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from inspect import signature
from typing import Any, NoReturn

from torch import nn

from ...store.schema import RouterKey, RouterSpec
from ..errors import CompiledModelError, NotMoEError, TracerError, UnknownRouterError
from ..models.layout import refuse_local_ids
from .adapters import ADAPTERS, ALONE, Adapter, Block, adapter_for
from .declaration import SYNTAX
from .declare import declared_for
from .declared import DeclaredRouter, declared_sites
from .found import FoundRouters
from .naming import experts_per_token, layer_and_stack, scoring_of, stream_of
from .site import Site, first_logits, logits_weight

IDS = re.compile(r"index|indices|selected|expert_ids|router_mask")
WEIGHTS = re.compile(r"weight|score|prob")
ROUTER_NAMES = ("gate", "router")
ROUTER_CLASS = re.compile(r"Router|Gating|Gate$")
SUSPECT = re.compile(r"(Experts?|Router|Gating|M[oO][eE](Block|Layer|FFN)?)$")
SPEC_FIELDS = ("num_experts", "top_k", "scoring", "steerable", "note", "stream", "found_by")


def find_routers(model: nn.Module, *, declared: Sequence[RouterSpec] = ()) -> list[RouterSpec]:
    """The routers of a model, in the order of their layers.

    Args:
        model: any PyTorch model; transformers models need nothing else.
        declared: `DeclaredRouter`s for routers that are not found by themselves; they win where both apply.
    Raises:
        NotMoEError: the model has no experts.
        UnknownRouterError: it has experts, but how they are chosen is not known.
        CompiledModelError: the model was compiled.
    """
    modules = _modules(model)
    sites = declared_sites([router for router in declared if isinstance(router, DeclaredRouter)], modules)
    taken = {site.spec.router for site in sites}
    sites += [site for site in _own_sites(model, modules) if site.spec.router not in taken]
    return [site.spec for site in _in_order(sites, model, modules)]


def find_sites(model: nn.Module, routers: Sequence[RouterSpec] | None = None) -> list[Site]:
    """The routers with their modules: all that are found, or only those in `routers`, which may hold
    declarations, or be what was found before."""
    if isinstance(routers, FoundRouters) and routers.model is model:
        return list(routers.sites)
    modules = _modules(model)
    if routers is None:
        return _in_order(_own_sites(model, modules), model, modules)
    sites = declared_sites([router for router in routers if isinstance(router, DeclaredRouter)], modules)
    if wanted := {router.router for router in routers if not isinstance(router, DeclaredRouter)}:
        found = _in_order(_own_sites(model, modules), model, modules)
        if missing := wanted - {site.spec.router for site in found}:
            raise UnknownRouterError(
                f"no router at {', '.join(sorted(missing))} in this {type(model).__name__}"
            )
        sites += [site for site in found if site.spec.router in wanted]
    return _in_order(sites, model, modules)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    refuse_compiled(model)
    refuse_local_ids(model)
    return dict(model.named_modules())


def _in_order(sites: list[Site], model: nn.Module, modules: dict[str, nn.Module]) -> list[Site]:
    """Decoder first, by layer; streams unique within a layer."""
    if not sites:
        raise _nothing_found(model, modules)
    return _named_apart(sorted(sites, key=lambda site: (site.spec.stream != "decoder", site.spec.layer)))


def refuse_compiled(model: nn.Module) -> None:
    """Hooks inside a compiled graph are traced away or frozen, so such a model is refused."""
    name = type(model).__name__
    if name == "OptimizedModule" or any(module._compiled_call_impl is not None for module in model.modules()):
        raise CompiledModelError(
            f"this {name} is compiled, and hooks inside a compiled graph see nothing: load the model without "
            "torch.compile (or pass model._orig_mod), and generate with disable_compile=True"
        )


def _own_sites(model: nn.Module, modules: dict[str, nn.Module]) -> list[Site]:
    """Those declared for the model; where there are none, those that are found."""
    declared = declared_for(model)
    return declared_sites(declared, modules) if declared else [*_sites(model, modules)]


def _sites(model: nn.Module, modules: dict[str, nn.Module]) -> Iterable[Site]:
    for path, module in modules.items():
        parent = path.rpartition(".")[0]
        if takes_decision(type(module)):
            name, router = _router_beside(module, modules[parent]) or _unknown(path, module, modules[parent])
            block = Block(f"{parent}.{name}".lstrip("."), modules[parent], router, module, _rows(router))
            yield from _sites_of(model, modules, block, path, adapter_for(type(router), ADAPTERS))
        elif (adapter := adapter_for(type(module), ALONE)) is not None:
            block = Block(path, modules[parent], module, None, _rows(module))
            yield from _sites_of(model, modules, block, None, adapter)


@cache
def takes_decision(cls: type[nn.Module]) -> bool:
    """Whether a module class is called with hidden states, expert ids and gate weights."""
    try:
        names = [*signature(cls.forward).parameters][2:]
    except (TypeError, ValueError):
        return False
    return any(IDS.search(name) for name in names) and any(WEIGHTS.search(name) for name in names)


def _router_beside(experts: nn.Module, block: nn.Module) -> tuple[str, nn.Module] | None:
    """The child of the block that chooses among these experts."""
    likely = _likely_routers(experts, block)
    return next((pair for pair in likely if logits_weight(pair[1]) is not None), None)


def _likely_routers(experts: nn.Module, block: nn.Module) -> list[tuple[str, nn.Module]]:
    children = [(name, child) for name, child in block.named_children() if child is not experts]
    by_name = [(name, child) for name, child in children if name in ROUTER_NAMES]
    return by_name + [(name, child) for name, child in children if ROUTER_CLASS.search(type(child).__name__)]


def _rows(router: nn.Module) -> int:
    weight = logits_weight(router)
    owner = next((m for m in router.modules() if getattr(m, "weight", None) is weight), router)
    # A quantised linear layer packs its weight, and says its size itself.
    rows = getattr(owner, "out_features", None) or (0 if weight is None else weight.shape[0])
    return int(rows)


def _sites_of(
    model: nn.Module,
    modules: dict[str, nn.Module],
    block: Block,
    experts: str | None,
    adapter: Adapter | None,
) -> Iterable[Site]:
    """The routers of one module: one, but for product keys."""
    changes = adapter(block) if adapter is not None else {}
    for each in changes if isinstance(changes, list) else [changes]:
        told = each if adapter is None else {**each, "found_by": f"adapter {adapter.__name__}"}
        yield _site(model, modules, block, experts, told)


def _site(
    model: nn.Module,
    modules: dict[str, nn.Module],
    block: Block,
    experts: str | None,
    changes: dict[str, Any],
) -> Site:
    layer, stack = layer_and_stack(block.path, modules)
    fields: dict[str, Any] = {
        "layer": layer,
        "stream": stream_of(block.path),
        "num_experts": block.num_experts,
        "top_k": experts_per_token([block.router, block.block], [getattr(model, "config", None)]),
        "router": block.path,
        "experts": experts,
        "scoring": scoring_of(block.router, block.block),
        "found_by": "experts call",
    }
    site = {
        "router": block.router,
        "experts": block.experts,
        "weight": logits_weight(block.router),
        "stack": stack,
        "normalises": bool(getattr(block.router, "norm_topk_prob", True)),
    }
    if "path" in changes:
        fields["router"] = f"{block.path}.{changes['path']}"
    fields |= {name: value for name, value in changes.items() if name in SPEC_FIELDS}
    site |= {name: value for name, value in changes.items() if name not in (*SPEC_FIELDS, "path")}
    spec = RouterSpec(**fields)
    site.setdefault("logits", partial(first_logits, num_experts=spec.num_experts))
    return Site(spec=spec, **site)


def _named_apart(sites: list[Site]) -> list[Site]:
    """Streams that are unique within a layer: further routers of a stream get the name of a module too."""
    groups: dict[RouterKey, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.spec.key, []).append(site)
    for group in groups.values():
        paths = [site.spec.router.split(".") for site in group]
        differing = [parts for parts in zip(*paths, strict=False) if len(set(parts)) == len(group)]
        for i, site in enumerate(group[1:], start=1):
            name = differing[0][i] if differing else str(i)
            site.spec = replace(site.spec, stream=f"{site.spec.stream}:{name}")
    return sites


DECLARE = (
    "declare it by a RouterSpec that says where its decisions are: find_routers(model, declared=["
    "DeclaredRouter(router='path', num_experts=E, top_k=k, ids=..., weights=..., logits=...)]), on the command line "
    f"--router '{SYNTAX}'"
)


def _unknown(path: str, module: nn.Module, block: nn.Module) -> NoReturn:
    for name, child in _likely_routers(module, block):
        layers = ", ".join(
            sorted({type(layer).__name__ for layer in child.modules()} - {type(child).__name__})
        )
        raise UnknownRouterError(
            f"{path} ({type(module).__name__}) is called with expert ids, and {name} ({type(child).__name__}) beside "
            f"it has no weight that can be read{f' (it holds {layers})' if layers else ''}: is it quantised? Leave "
            f"routers out of the quantisation, or {DECLARE}"
        )
    raise UnknownRouterError(
        f"{path} ({type(module).__name__}) is called with expert ids, but no router is known beside it "
        f"(tried: siblings named gate or router, classes named ...Router, ...Gating or ...Gate); {DECLARE}"
    )


def _nothing_found(model: nn.Module, modules: dict[str, nn.Module]) -> UnknownRouterError | NotMoEError:
    name = type(model).__name__
    suspects = [path for path, module in modules.items() if path and SUSPECT.search(type(module).__name__)]
    suspects += [path for path in modules if re.search(r"(^|\.)(experts?|router)$", path)]
    if suspects:
        shown = ", ".join(f"{path} ({type(modules[path]).__name__})" for path in suspects[:3])
        return UnknownRouterError(
            f"{name} seems to have experts, at {shown}; tried: no module is called with hidden states, "
            f"expert ids and gate weights, and no adapter is named after these classes; {DECLARE}"
        )
    return NotMoEError(
        f"{name} is not a Mixture-of-Experts model: no module of it chooses among experts; "
        "emergent_moe(model, num_experts=16), on the command line --experts 16, shows its feed-forward layers as "
        "emergent experts"
    )


def routers_to_trace(model: Any, routers: Sequence[RouterSpec] | None = None) -> FoundRouters:
    """The routers of a model that can be traced, found once for all that needs them.

    Raises:
        TracerError: no routers, or an encoder-decoder model, whose two sequences a trace has no place for.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise TracerError(
            f"{type(model).__name__} reads with an encoder and writes with a decoder, a trace holds one "
            "sequence a prompt: use record_routing, which records both"
        )
    return FoundRouters(model, find_sites(model, routers))


def traced_routers(found: FoundRouters) -> FoundRouters:
    """Those that text passes: routers of other inputs (images, sound) decide nothing in a trace."""
    return found.without_streams(("vision", "audio"))
