"""Null experts, and a gate that closes.

The sample model under two rules that let a token use fewer experts: null experts compete for its places (AdaMoE), and
a temperature with a threshold closes a dense gate (EvoMoE).

Systems: 18 AdaMoE (arXiv 2406.13233); 20 EvoMoE (arXiv 2112.14397)
Real: the bundled model, its own logits, and every choice as it was executed under the rule.
Toy: the model was trained under neither rule, so this is a what-if. AdaMoE trains with null experts and balances their
    load; EvoMoE anneals its temperature while it trains.
Not shown: what either rule costs or gains in quality, and the speed.
Look at: in the stream `null`, true experts fall as the logit of the null experts rises; in the stream `closing`, active
    experts fall with the temperature. The settings of the trace hold the means by kind of token.
Opens: structure?question=Timeline&by=null_logit&stream=null
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moescope.sample_data.gallery.kit import SAMPLE, sample_texts, save, windows
from moescope.store import Trace
from moescope.tracer import DeclaredRouter, Steering, find_routers, load_model, record_routing
from moescope.tracer.hooks.record import Routing

NULLS, PLACES, THRESHOLD = 4, 6, 0.02
NULL_LOGITS = (-8.0, -1.0, 0.0, 1.0, 2.0, 4.0)
TEMPERATURES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.1)


class ClosingGate(nn.Module):
    """EvoMoE's gate on the logits of a trained router: softmax(z / τ) over all experts; those below the threshold are
    dropped, except the first, and the rest renormalised."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.router, self.temperature = router, 1.0

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.router.weight)
        weights, ids = (logits / self.temperature).softmax(-1).sort(-1, descending=True)
        kept = weights >= THRESHOLD
        kept[:, 0] = True
        weights = weights * kept
        return logits, weights / weights.sum(-1, keepdim=True), ids


def run(out: str | PathLike[str], *, small: bool = False, seed: int = 0) -> Trace:
    """Run the sample model under both rules, each setting over the same texts."""
    torch.manual_seed(seed)
    model = load_model(str(SAMPLE / "model"), dtype="float32").model
    numbers, texts, names, own = windows(sample_texts(("en", "de", "ja"), 2 if small else 12), 24)
    ids = torch.tensor(own)[numbers]
    both = Routing()
    samples = [
        text | {"id": f"{text['id']} null logit {logit:g}", "null_logit": f"{logit:g}"}
        for logit in NULL_LOGITS for text in texts
    ]  # fmt: skip
    identical = _nulls(model, ids, both)
    samples += [
        text | {"id": f"{text['id']} temperature {value:g}", "temperature": f"{value:g}"}
        for value in TEMPERATURES for text in texts
    ]  # fmt: skip
    _closing(model, ids, both)
    half = len(samples) // 2
    passed = {"null": range(half), "closing": range(half, 2 * half)}
    measured = {
        "neutral_identical": identical,
        "true_experts_by_null_logit": _means(both, "null", NULL_LOGITS),
        "active_experts_by_temperature": _means(both, "closing", TEMPERATURES),
        "true_experts_by_kind_of_token_at_null_logit_0": _by_kind(both, names),
    }
    rows = names * (len(NULL_LOGITS) + len(TEMPERATURES))
    return save("null_experts", out, both, samples=samples, rows=rows, measured=measured, passed=passed)


def _nulls(model: nn.Module, ids: Tensor, into: Routing) -> bool:
    """Record AdaMoE's rule at each null logit; whether the rule without nulls changes not a bit of the output."""
    specs = find_routers(model)
    with torch.inference_mode():
        for logit in NULL_LOGITS:
            rule = {"rule": "null_experts", "amount": NULLS, "logit": logit, "top_k": PLACES}
            with record_routing(model, steering=Steering([rule])) as routing:
                model(input_ids=ids)
            for spec in specs:
                shown = replace(spec, stream="null", top_k=None)
                into.routed(shown, routing.ids(spec.layer), routing.weights(spec.layer), None)
        neutral = Steering([{"rule": "null_experts", "amount": 0, "top_k": specs[0].top_k}])
        plain = model(input_ids=ids).logits
        with neutral.applied(model):
            same = bool(torch.equal(model(input_ids=ids).logits, plain))
    into.routers += [replace(spec, stream="null", top_k=None) for spec in specs]
    return same


def _closing(model: Any, ids: Tensor, into: Routing) -> None:
    """Put EvoMoE's gate in place of each router, and record it at each temperature."""
    for layer in model.model.layers:
        layer.mlp.gate = ClosingGate(layer.mlp.gate)
    router = DeclaredRouter(
        router="model.layers.*.mlp.gate", num_experts=model.config.num_experts, top_k=None, stream="closing",
        weights=lambda call: torch.zeros_like(call.output[0]).scatter(-1, call.output[2], call.output[1]),
        logits=0, steerable=False,
    )  # fmt: skip
    with torch.inference_mode(), record_routing(model, routers=[router]) as routing:
        for temperature in TEMPERATURES:
            for layer in model.model.layers:
                layer.mlp.gate.temperature = temperature
            model(input_ids=ids)
    for spec in routing.routers:
        into.routed(spec, routing.ids(spec.layer, "closing"), routing.weights(spec.layer, "closing"), None)
    into.routers += routing.routers


def _used(routing: Routing, stream: str) -> np.ndarray:
    """(rows,) mean over the layers of the experts that each row used."""
    layers = [spec.layer for spec in routing.routers if spec.stream == stream]
    return np.mean([(routing.ids(layer, stream) >= 0).sum(-1).numpy() for layer in layers], axis=0)


def _means(routing: Routing, stream: str, settings: Iterable[float]) -> dict[str, float]:
    pieces = np.split(_used(routing, stream), len(tuple(settings)))
    return {
        f"{value:g}": round(float(piece.mean()), 4) for value, piece in zip(settings, pieces, strict=True)
    }


def _by_kind(routing: Routing, names: list[list[str]]) -> dict[str, float]:
    """True experts by kind of token, where the null logit is 0."""
    used = np.split(_used(routing, "null"), len(NULL_LOGITS))[NULL_LOGITS.index(0.0)]
    kinds = [
        "punctuation and digits" if not any(map(str.isalpha, name)) else "word start" if name[0] == " " else "rest"
        for sample in names for name in sample
    ]  # fmt: skip
    return {kind: round(float(used[np.array(kinds) == kind].mean()), 4) for kind in sorted(set(kinds))}
