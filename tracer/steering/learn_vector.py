"""Learns a logit vector for the text at hand ("Rewiring Experts on the Fly", arXiv 2510.14853).

One vector of E numbers a layer, zero at the start, is added to the router logits of every token: z + δ. All
weights stay frozen; a few steps of plain gradient descent on the mean next-token cross-entropy of the context
set the vectors. The result is a steering with a `vector` rule, to be applied, saved and shared like any other.

Shapes: B sequences, S tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import SteeringError
from ..hooks.record import record_routing
from ..models.input_device import input_device
from .profile import Steering
from .rules import Rule

Layers = Literal["all", "most_confident", "least_confident"]


def learn_vector(
    model: nn.Module,
    context: Tensor | str | list[str],
    *,
    tokenizer: Any = None,
    attention_mask: Tensor | None = None,
    steps: int = 5,
    lr: float = 0.05,
    layers: Layers = "all",
    start: Steering | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Steering:
    """Learn one logit vector per layer on a context.

    Args:
        model: a causal language model with steerable routers.
        context: token ids (B, S), or text with a `tokenizer`.
        attention_mask: (B, S), 0 where padding; padding takes no part in the loss.
        steps: n of the paper; 0 gives vectors of zeros, which change nothing.
        lr: η of the paper.
        layers: all, or the half whose chosen experts have the highest or the lowest mean probability
            (mean over tokens of (1/k) Σ log p). Papers disagree on the half, so both are there.
        start: vectors to go on from, as an earlier call returned them (for renewal during generation).
        on_step: called with the number of the step and the loss before it; once more after the last.
    Raises:
        SteeringError: the model has no router that can be steered, the context has no two tokens, or `start` is
            more than one rule of vectors that fit the model.
    """
    ids_BS, mask_BS = _encoded(context, tokenizer, attention_mask, model)
    if ids_BS.shape[1] < 2:
        raise SteeringError("a context needs at least two tokens to learn from")
    widths = _layers_to_learn(model, ids_BS, mask_BS, layers)
    old = going_on_from(start, widths) if start else None
    device = ids_BS.device
    with torch.inference_mode(False), torch.enable_grad(), _frozen(model):
        ids_BS, mask_BS = ids_BS.clone(), mask_BS.clone()
        vectors = {layer: _begin(old, layer, width, device) for layer, width in widths.items()}
        steering = Steering([Rule("vector", tuple(vectors), options={"vector": vectors})])
        with steering.applied(model):
            for step in range(steps):
                loss = _loss(model, ids_BS, mask_BS)
                if on_step is not None:
                    on_step(step, float(loss.detach()))
                slopes = torch.autograd.grad(loss, list(vectors.values()), allow_unused=True)
                with torch.no_grad():
                    for vector, slope in zip(vectors.values(), slopes, strict=True):
                        if slope is not None:
                            vector -= lr * slope
            if on_step is not None:
                with torch.no_grad():
                    on_step(steps, float(_loss(model, ids_BS, mask_BS)))
    learned = {layer: vector.tolist() for layer, vector in vectors.items()}
    rule = {"rule": "vector", "layers": sorted(learned), "vector": learned}
    return Steering([rule], name=f"learned vector, {steps} steps of {lr}")


def going_on_from(start: Steering, widths: Mapping[int, int]) -> Rule:
    """The one rule of `start`, whose vectors learning goes on from; `widths` are layer → E.

    Raises:
        SteeringError: it holds another rule, which learning would drop, or a vector of another length.
    """
    if len(start.rules) != 1 or not start.rules[0].kind.has_vector:
        kinds = ", ".join(rule.rule for rule in start.rules) or "none"
        raise SteeringError(f"learning can continue from a single vector rule only; the rules are: {kinds}")
    (rule,) = start.rules
    for layer, width in widths.items():
        vector = rule.vector_in(layer)
        if vector is not None and len(vector) != width:
            raise SteeringError(
                f"a vector of {len(vector)} numbers for layer {layer}, which has {width} experts"
            )
    return rule


def _encoded(
    context: Tensor | str | list[str], tokenizer: Any, mask: Tensor | None, model: nn.Module
) -> tuple[Tensor, Tensor]:
    device = input_device(model)
    if isinstance(context, Tensor):
        ids_BS = context if context.dim() == 2 else context.unsqueeze(0)
    elif tokenizer is None:
        raise SteeringError("a context given as text needs a tokenizer")
    else:
        texts = [context] if isinstance(context, str) else context
        encoded = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1)
        ids_BS, mask = encoded["input_ids"], encoded["attention_mask"]
    return ids_BS.to(device), (torch.ones_like(ids_BS) if mask is None else mask).to(device)


def _layers_to_learn(model: nn.Module, ids_BS: Tensor, mask_BS: Tensor, layers: Layers) -> dict[int, int]:
    """Layer → E of the decoder layers that get a vector."""
    with torch.no_grad(), record_routing(model) as routing:
        model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False)
    specs = [spec for spec in routing.routers if spec.stream == "decoder" and spec.steerable]
    if not specs:
        raise SteeringError("no router of this model can be steered at its logits")
    if layers == "all":
        return {spec.layer: spec.num_experts for spec in specs}
    confidence: dict[int, float] = {}
    for spec in specs:
        p_TE, ids_TK = routing.probabilities(spec.layer), routing.ids(spec.layer)
        if p_TE is None:
            raise SteeringError(f"the scoring function of layer {spec.layer} is not known")
        log_T = p_TE.gather(-1, ids_TK.clamp(min=0)).clamp(min=1e-30).log().mean(-1)
        confidence[spec.layer] = float(log_T[mask_BS.flatten().bool()].mean())
    ordered = sorted(specs, key=lambda spec: confidence[spec.layer], reverse=layers == "most_confident")
    return {spec.layer: spec.num_experts for spec in ordered[: max(1, len(ordered) // 2)]}


def _begin(old: Rule | None, layer: int, width: int, device: torch.device) -> Tensor:
    known = old.vector_in(layer) if old is not None else None
    values = torch.zeros(width) if known is None else torch.tensor(known)
    return values.to(device).requires_grad_()


def _loss(model: nn.Module, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean next-token cross-entropy, nats."""
    logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits
    target_BS = ids_BS[:, 1:].masked_fill(mask_BS[:, 1:] == 0, -100)
    return F.cross_entropy(logits_BSV[:, :-1].float().flatten(0, 1), target_BS.flatten(), ignore_index=-100)


@contextmanager
def _frozen(model: nn.Module):
    """No weight takes a gradient meanwhile."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
