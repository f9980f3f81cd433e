"""What must hold of a model inside vLLM before its routing is believed. Nothing here imports vLLM.

vLLM may run another model than the checkpoint describes (its OLMoE never renormalises), and a kernel may choose
experts without asking the router. Both are refused by name. What remains is compared with what the experts' kernel
received, on a sample of steps, and with the logits that it must follow from.

Shapes: L routers, n rows, K slots, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....store.schema import RouterSpec
from ...routers.scoring import router_probabilities
from .taps import UNSEEN, TapBuffers, unseen

SAMPLED = 64
"""Every so many steps is compared with what the experts' kernel received, and the first few always."""
FIRST = 4
ROUND_OFF = 2e-2
"""Largest relative difference between gate weights and the scores that they come from: bfloat16 has 8 bits."""


def refused(name: str, layer: Any, base: type) -> str | None:
    """Why a MoE layer's routing can't be recorded, or None where it can be."""
    router = layer.router
    if layer.routed_experts.quant_method.is_monolithic:
        return (
            f"{name}: its kernel chooses the experts inside one call "
            f"({type(layer.routed_experts.quant_method).__name__}), so no router can be seen; "
            "start vLLM with another kernel (--engine-arg moe_backend=triton)"
        )
    if hasattr(layer, "_moe_state"):  # vLLM's own name for what it is handed
        return (
            f"{name}: transformers' code inside vLLM chooses the experts and hands over ids alone, so no router can be "
            "seen; trace it without --engine vllm"
        )
    if not isinstance(router, base) or type(router).__name__ in (
        "RoutingSimulatorRouter",
        "ZeroExpertRouter",
    ):
        return f"{name}: its router {type(router).__name__} is not one that moescope knows"
    return None


def contradictions(config: Any, name: str, router: Any, architecture: str) -> list[str]:
    """Where vLLM's router is not the one that the checkpoint's configuration describes, one sentence each."""
    expected = {
        "renormalize": getattr(config, "norm_topk_prob", None),
        "top_k": _first(config, "num_experts_per_tok", "moe_topk", "moe_k"),
        "global_num_experts": _first(config, "num_experts", "num_local_experts", "n_routed_experts"),
        "scoring_func": getattr(config, "scoring_func", None),
    }
    found: list[str] = []
    for attribute, wanted in expected.items():
        has = getattr(router, attribute, None)
        if wanted is not None and has is not None and has != wanted:
            found.append(
                f"{name}: vLLM's {architecture} runs with {attribute} = {has}, the checkpoint's configuration says "
                f"{wanted}: vLLM would run another model; trace it without --engine vllm, or let vLLM run transformers'"
                " code (--engine-arg model_impl=transformers)"
            )
    return found


def _first(config: Any, *names: str) -> Any:
    value = next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
    return value if isinstance(value, int) else None


def corrected(router: Any) -> bool:
    """Whether a router chooses by more than its logits: a correction bias, or groups of experts."""
    bias = getattr(router, "e_score_correction_bias", None)
    grouped = bool(getattr(router, "use_grouped_topk", False)) or "Grouped" in type(router).__name__
    groups = getattr(router, "num_expert_group", None)
    return bias is not None or (grouped and (groups or 2) > 1) or _is_custom(router)


def _is_custom(router: Any) -> bool:
    return getattr(router, "custom_routing_function", None) is not None


class KernelCheck:
    """Compares taps with what the experts' kernel received, on a sample of steps.

    Args:
        routers: vLLM's own, in the order of the buffers.
    """

    def __init__(self, buffers: TapBuffers, routers: Sequence[Any]) -> None:
        self._buffers = buffers
        self._routers = routers
        self.steps = 0
        self.checked = 0

    def begin_step(self) -> None:
        self._buffers.checking = self.steps < FIRST or self.steps % SAMPLED == 0
        self.steps += 1

    def problem(self, count: int) -> str | None:
        """What is wrong with the first `count` rows of the step that has just run."""
        buffers = self._buffers
        if not buffers.checking:  # nothing may wait for the device in most steps
            return None
        if missed := buffers.unseen_layers(count):
            return unseen(missed)
        self.checked += 1
        for number, spec in enumerate(buffers.specs):
            if found := self._router_problem(number, spec, count):
                return f"{spec.router}: {found}"
        return None

    def _router_problem(self, number: int, spec: RouterSpec, count: int) -> str | None:
        buffers, router, slots = self._buffers, self._routers[number], spec.top_k
        logical = logical_of(router)
        ids, weights = buffers.ids_LNK[number, :count, :slots], buffers.weights_LNK[number, :count, :slots]
        got = buffers.kernel_ids_LNK[number, :count, :slots]
        if logical is not None:
            got = torch.where(got >= 0, logical[got.clamp(min=0).long()].to(got.dtype), got)
        kept = ids >= 0
        if bool((got == UNSEEN).all()):
            return "what its experts received could not be seen"
        if bool((got[kept] != ids[kept]).any()):
            return "its experts received other ids than it chose"
        if not torch.equal(buffers.kernel_weights_LNK[number, :count, :slots], weights):
            return "its experts received other gate weights than it gave"
        if buffers.steering is None and not corrected(router):
            logits = buffers.logits_LNE[number, :count, : spec.num_experts]
            factor = float(getattr(router, "routed_scaling_factor", 1.0) or 1.0)
            return weights_problem(spec, ids, weights / factor, logits, normalises=normalises(router))
        return None


def normalises(router: Any) -> bool:
    """Whether a router scales its gate weights to a fixed sum."""
    return bool(getattr(router, "renormalize", True))


def logical_of(router: Any) -> Tensor | None:
    """From physical to logical expert ids, where load balancing keeps several copies of an expert."""
    state = getattr(router, "eplb_state", None)
    table_ES = getattr(state, "logical_to_physical_map", None)
    if table_ES is None:
        return None
    logical = torch.full((int(table_ES.max()) + 1,), -1, dtype=torch.int64, device=table_ES.device)
    expert_ES = torch.arange(len(table_ES), device=table_ES.device).unsqueeze(-1).expand(table_ES.shape)
    logical[table_ES[table_ES >= 0].long()] = expert_ES[table_ES >= 0]
    return logical


def weights_problem(
    spec: RouterSpec, ids_NK: Tensor, weights_NK: Tensor, logits_NE: Tensor, *, normalises: bool
) -> str | None:
    """Whether gate weights are the scores of the chosen experts, made to sum to 1 where the model does so; and whether
    those experts have the largest logits."""
    p_NE = router_probabilities(logits_NE, spec.scoring)
    if p_NE is None or not bool(logits_NE.isfinite().all()):
        return None
    expected_NK = p_NE.gather(-1, ids_NK.long())
    if normalises:
        expected_NK = expected_NK / expected_NK.sum(-1, keepdim=True)
    off = float((weights_NK - expected_NK).abs().amax() / expected_NK.abs().amax().clamp(min=1e-9))
    if off > ROUND_OFF:
        return f"its gate weights do not follow from its logits (relative difference {off:.2g})"
    least_N = logits_NE.gather(-1, ids_NK.long()).amin(-1)
    better_N = (logits_NE > least_N.unsqueeze(-1)).sum(-1)
    if bool((better_N >= ids_NK.shape[-1]).any()):
        return "it did not choose the experts with the largest logits"
    return None
