"""One pass over a few prompts: what every experts module got, handed on while its layer is in memory.

All prompts run as one padded batch, so that of a model whose layers lie on disk (`models.by_layer`) each is read once.

Shapes: B prompts, S tokens of the longest, T = B · S rows, K slots, H width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.utils.rnn import pad_sequence

from ..errors import CaptureError
from ..hooks.outputs import check_sum
from ..hooks.outputs_probe import Addition, probe
from ..models.by_layer import in_memory
from ..models.forward import evaluating, forward_options
from ..models.input_device import input_device
from ..routers.passages import Call
from ..routers.site import Site


@dataclass(frozen=True)
class Seen:
    """The call of a layer's experts."""

    call: Call
    ids_TK: Tensor
    """-1 in rows of padding."""
    gates_TK: Tensor
    change_T: Tensor | None
    """1 − cos between the residual stream before and after the routed experts; None where that can't be told."""
    real_T: Tensor
    """Rows that are no padding."""


Ran = Callable[[Site, Seen], None]
Left = Callable[[Site, float], None]
"""Receives mean 1 − cos between what entered a site's layer and what left it."""


@torch.inference_mode()
def run_through(
    model: Any, sites: Sequence[Site], prompts: Sequence[Sequence[int]], ran: Ran, left: Left
) -> None:
    """Run some prompts; `ran` is told of each site's experts as soon as they have run, `left` when its layer has.

    Raises:
        CaptureError: a router whose experts' outputs can't be told, with the reason.
    """
    inputs = _inputs(model, prompts)
    real_T = inputs["attention_mask"].bool().reshape(-1)
    modules = dict(model.named_modules())
    with evaluating(model):
        additions = _additions(model, sites, _inputs(model, prompts[:1]))
        with ExitStack() as stack:
            for site in sites:
                handles = _watch_experts(site, additions[site.spec.router], real_T, ran)
                if (layer := modules.get(layer_path(site.spec.router))) is not None:
                    handles.append(_watch_layer(site, layer, real_T, left))
                for handle in handles:
                    stack.callback(handle.remove)
            model(**inputs, **forward_options(model))


def _additions(model: Any, sites: Sequence[Site], inputs: dict[str, Tensor]) -> dict[str, Addition]:
    """How the experts' outputs are told: with the way into the residual stream, or by themselves where there is none
    that is simple."""
    try:
        return probe(model, sites, inputs, residual=True)
    except CaptureError:
        found = probe(model, sites, inputs, residual=False)
    for site in sites:
        with weights_of(site):
            check_sum(site, found[site.spec.router].call)
    return found


@contextmanager
def weights_of(site: Site) -> Iterator[None]:
    """The weights of a router and its experts in memory, where they lie on disk."""
    with ExitStack() as stack:
        for module in (site.experts, site.router):
            for part in module.modules() if module is not None else ():
                stack.enter_context(in_memory(part))
        yield


def layer_path(router: str) -> str:
    """Module path of the layer in which a router lies: up to the first number."""
    found = re.match(r"(.*?\.\d+)(\.|$)", router)
    return found[1] if found else ""


def _inputs(model: Any, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    ids = [torch.as_tensor(list(one), dtype=torch.int64) for one in prompts]
    real = [torch.ones(len(one), dtype=torch.int64) for one in ids]
    padded = {"input_ids": ids, "attention_mask": real}
    return {
        name: pad_sequence(rows, batch_first=True).to(input_device(model)) for name, rows in padded.items()
    }


def _watch_experts(site: Site, addition: Addition, real_T: Tensor, ran: Ran) -> list[Any]:
    assert site.experts is not None
    place = addition.residual
    # Without what accelerate puts around it, which would take the weights away after each run.
    forward: Any = getattr(site.experts, "_old_forward", site.experts.forward)
    residual: list[Tensor] = []

    def passed(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if place is not None and (x := place.tensor(args, kwargs, output)) is not None:
            residual[:] = [x.detach()]

    def experts_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = Call(module, args, kwargs, output, run=forward)
        ids_TK, _ = site.passage.read(call)
        change_T = None
        if place is not None:
            routed_TH = site.passage.routed(call).float()
            x_TH = residual[0].reshape(routed_TH.shape).float()
            change_T = 1 - cosine_similarity(x_TH, x_TH + addition.scale * routed_TH, dim=-1)
        rows_T = real_T.to(ids_TK.device)
        ids_TK = ids_TK.masked_fill(~rows_T.unsqueeze(-1), -1)
        ran(site, Seen(call, ids_TK, site.passage.factors(call).float(), change_T, rows_T))

    handles = [site.experts.register_forward_hook(experts_ran, with_kwargs=True)]
    if place is not None:
        at = place.module
        register: Callable[..., Any] = (
            at.register_forward_hook if place.side == "out" else at.register_forward_pre_hook
        )
        handles.append(register(passed, with_kwargs=True))
    return handles


def _watch_layer(site: Site, layer: nn.Module, real_T: Tensor, left: Left) -> Any:
    def layer_ran(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before, after = _hidden([*args, *kwargs.values()]), _hidden([output])
        if before is None or after is None or before.shape != after.shape:
            return
        width = before.shape[-1]
        change_T = 1 - cosine_similarity(
            before.reshape(-1, width).float(), after.reshape(-1, width).float(), dim=-1
        )
        left(site, float(change_T[real_T.to(change_T.device)].mean()))

    return layer.register_forward_hook(layer_ran, with_kwargs=True)


def _hidden(values: Sequence[Any]) -> Tensor | None:
    """The first (B, S, H) among the values, or in the first of them that is a tuple."""
    for value in values:
        if isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point():
            return value.detach()
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
            return _hidden(value[:1])
    return None
