"""Compressed experts (arXiv 2503.00634): what the dropped experts of a token leave behind is a factor on the input of
those that stay.

1. The file holds d numbers θ_e for every expert e of a layer, d the width of what the experts receive.
2. Of a token's chosen experts the first m stay; the others, with gate weights g_e, give s = Σ g_e θ_e / Σ g_e.
3. The experts that stay receive x ⊙ s in the place of x. Where nothing is dropped, s = 1.

With θ = 1 everywhere this is the rule without a file.

Shapes: T token rows, K slots, E experts, D width of the experts' input.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...store.schema import RouterSpec
from ..errors import SteeringError

if TYPE_CHECKING:
    from torch import Tensor

LAYER, EXPERT = re.compile(r"\blayers\.(\d+)\b"), re.compile(r"\bexperts\.(\d+)\b")


class Thetas:
    """The vectors of a file, by layer: one tensor (E, D) a layer, its name with `layers.L`, or one (D,) an expert, its
    name with `layers.L` and `experts.E`."""

    def __init__(self, path: str, by_layer: dict[int, Tensor]) -> None:
        self.path = path
        self._by_layer = by_layer

    def problem(self, spec: RouterSpec) -> str | None:
        """Why it cannot be used at a router, or None."""
        theta_ED = self._by_layer.get(spec.layer)
        if theta_ED is None:
            return f"{self.path} has no vectors of it; name the layers that it has"
        if len(theta_ED) != spec.num_experts:
            return f"{self.path} has vectors of {len(theta_ED)} experts, the layer {spec.num_experts} experts"
        return None

    def factor(self, layer: int, ids_TK: Tensor, weights_TK: Tensor, dropped_TK: Tensor) -> Tensor:
        """(T, D): the weighted mean of the vectors of the dropped experts, 1 where none is dropped; float32."""
        theta_ED = self._by_layer[layer].to(ids_TK.device)
        gate_TK = weights_TK.float().masked_fill(~dropped_TK, 0)
        sum_TD = (gate_TK.unsqueeze(-1) * theta_ED[ids_TK.clamp(min=0)]).sum(-2)
        total_T1 = gate_TK.sum(-1, keepdim=True)
        return (sum_TD / total_T1).where(total_T1 > 0, 1.0)


def thetas(path: str) -> Thetas:
    """The vectors of a safetensors file.

    Raises:
        SteeringError: no such file, or tensors that are no vectors of experts.
    """
    try:
        return _of_file(path, Path(path).stat().st_mtime_ns)
    except OSError as error:
        raise SteeringError(f"theta: {path} cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=4)
def _of_file(path: str, changed: int) -> Thetas:
    """Kept, as every router of every pass asks for it."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise SteeringError(f"theta: {path} is not a safetensors file: {error}") from None
    stacked: dict[int, Tensor] = {}
    alone: dict[int, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, expert = LAYER.search(name), EXPERT.search(name)
        if layer is None or tensor.dim() != (2 if expert is None else 1) or not tensor.isfinite().all():
            raise SteeringError(
                f"theta: {path}: {name} {tuple(tensor.shape)} is not valid; expected finite tensors (E, d) "
                "named layers.L, or (d,) named layers.L.experts.E"
            )
        if expert is None:
            stacked[int(layer[1])] = tensor.float()
        else:
            alone.setdefault(int(layer[1]), {})[int(expert[1])] = tensor.float()
    for layer, vectors in alone.items():
        if sorted(vectors) != list(range(len(vectors))) or len({v.shape for v in vectors.values()}) > 1:
            raise SteeringError(
                f"theta: {path}: layer {layer} needs vectors of one length for experts 0 to E - 1"
            )
        stacked[layer] = torch.stack([vectors[e] for e in sorted(vectors)])
    return Thetas(path, stacked)
