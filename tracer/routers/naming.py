"""What a router is called and how it scores: layer, stream, experts per token, scoring function.

Read from module paths, attributes, the configuration and, for the scoring function, the source of the
router's forward. The conformance suite holds these readings against what models execute.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

from torch import nn

STREAMS = (
    ("vision", r"vision|visual|image"),
    ("audio", r"audio"),
    ("encoder", r"^(.*_)?encoder$"),
    ("talker", r"talker"),
    ("mtp", r"^mtp"),
)
"""Stream names by what a segment of the module path says; anything else is the decoder."""

TOP_K = (
    "top_k", "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts",
    "moe_k", "num_selected_experts",
)  # fmt: skip


def layer_and_stack(path: str, modules: dict[str, nn.Module]) -> tuple[int, str]:
    """The layer that a module path lies in, as the model numbers it, and the path of the stack of layers.

    `encoder.block.1.layer.1.mlp` is layer 1 of the stack `encoder`: the outermost list of modules counts.
    """
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part.isdigit() and isinstance(modules[".".join(parts[:i])], nn.ModuleList):
            return int(part), ".".join(parts[: i - 1])
    return 0, ""


def stream_of(path: str) -> str:
    parts = path.split(".")
    for stream, pattern in STREAMS:
        if any(re.search(pattern, part) for part in parts):
            return stream
    layer = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return "attention" if any("attn" in part or "attention" in part for part in parts[layer:]) else "decoder"


def experts_per_token(owners: list[nn.Module], configs: list[Any]) -> int | None:
    """k, from the first of these modules that has a number for it, else from the configurations."""
    for owner in [*owners, *(getattr(m, "config", None) for m in owners), *configs]:
        for name in TOP_K:
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def scoring_of(router: nn.Module, block: nn.Module) -> str:
    """`softmax`, `softmax_topk`, `sigmoid`, another name or `unknown`; from attributes, else from source."""
    config = getattr(router, "config", None) or getattr(block, "config", None)
    for owner, name in (
        (router, "expert_selection_fn"), (router, "scoring_func"), (router, "score_function"),
        (config, "scoring_func"), (config, "score_function"),
    ):  # fmt: skip
        if isinstance(value := getattr(owner, name, None), str):
            return "softmax_topk" if name == "expert_selection_fn" and value == "softmax" else value
    for name in ("score_fn", "scoring_function"):
        if isinstance(function := getattr(router, name, None), nn.Module):
            return type(function).__name__.lower().removesuffix("activation")
    return _scoring_of_class(type(router), "forward") or _scoring_of_class(type(block), None) or "unknown"


@cache
def _scoring_of_class(cls: type, method: str | None) -> str | None:
    return _scoring_in(_source(cls, method))


def _scoring_in(source: str) -> str | None:
    if "sparsemixer" in source:
        return "softmax"
    found = {name: source.find(name) for name in ("sigmoid", "softmax", "topk(") if name in source}
    if "sigmoid" in found:
        return "sigmoid"
    if "softmax" in found:
        return "softmax_topk" if found.get("topk(", len(source)) < found["softmax"] else "softmax"
    return None


def _source(cls: type, method: str | None) -> str:
    try:
        return inspect.getsource(getattr(cls, method) if method else cls)
    except (OSError, TypeError):
        return ""
