"""The calls of every experts module on a few prompts, kept so that single experts can be run on them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..hooks.outputs_probe import Addition, probe
from ..models.forward import evaluating, forward_options
from ..models.input_device import input_device
from ..routers.passages import Call
from ..routers.site import Site


@dataclass(frozen=True)
class Seen:
    """One call of a layer's experts."""

    call: Call
    ids_TK: Tensor
    gates_TK: Tensor
    change_T: Tensor
    """1 − cos between the residual stream before and after the routed experts."""


@torch.inference_mode()
def calls_of(model: Any, sites: Sequence[Site], prompts: Sequence[Sequence[int]]) -> dict[str, list[Seen]]:
    """By router path, what its experts got for each of some prompts.

    Raises:
        CaptureError: a router whose experts' outputs can't be told, with the reason.
    """
    seen: dict[str, list[Seen]] = {site.spec.router: [] for site in sites}
    with evaluating(model):
        additions = probe(model, sites, _inputs(model, prompts[0]), residual=True)
        with ExitStack() as stack:
            for site in sites:
                for handle in _watch(site, additions[site.spec.router], seen[site.spec.router]):
                    stack.callback(handle.remove)
            for ids in prompts:
                model(**_inputs(model, ids), **forward_options(model))
    return seen


def _inputs(model: Any, ids: Sequence[int]) -> dict[str, Tensor]:
    ids_1T = torch.as_tensor(list(ids), dtype=torch.int64, device=input_device(model)).unsqueeze(0)
    return {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}


def _watch(site: Site, addition: Addition, seen: list[Seen]) -> list[Any]:
    assert site.experts is not None
    assert addition.residual is not None
    forward, place = site.experts.forward, addition.residual
    residual: list[Tensor] = []

    def passed(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if (x := place.tensor(args, kwargs, output)) is not None:
            residual[:] = [x.detach()]

    def experts_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = Call(module, args, kwargs, output, run=forward)
        ids_TK, _ = site.passage.read(call)
        routed_TH = site.passage.routed(call).float()
        x_TH = residual[0].reshape(routed_TH.shape).float()
        change_T = 1 - cosine_similarity(x_TH, x_TH + addition.scale * routed_TH, dim=-1)
        seen.append(Seen(call, ids_TK, site.passage.factors(call).float(), change_T))

    register = (
        place.module.register_forward_hook if place.side == "out" else place.module.register_forward_pre_hook
    )
    return [
        site.experts.register_forward_hook(experts_ran, with_kwargs=True),
        register(passed, with_kwargs=True),
    ]
