"""The model card of a manifest: which model, how large, and fingerprints that tell two checkpoints apart."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .by_layer import in_memory, is_elsewhere
from .layout import layout_of

if TYPE_CHECKING:
    from torch import nn

    from ...store.schema import RouterSpec

SAMPLES = 64
"""Values of each weight tensor that enter the fingerprint."""

_VOLATILE = (
    "_name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_attn_implementation_autoset",
)


def model_card(model: nn.Module, *, name: str | None = None) -> dict[str, Any]:
    """What is known of a model without running it, as plain JSON.

    `weights_fingerprint` is a SHA-256 over each tensor's name, shape and 64 evenly spaced values as float32:
    it tells fine-tuned copies apart in milliseconds, but a change that misses every sampled value goes
    unseen.
    """
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    config_json = (
        json.dumps(stable_config(config.to_dict()), sort_keys=True, default=str)
        if config is not None
        else "{}"
    )
    return {
        "name": name or getattr(model, "name_or_path", "") or type(model).__name__,
        "architecture": type(model).__name__,
        "model_type": getattr(config, "model_type", None),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": getattr(text, "num_hidden_layers", None),
        "hidden_size": getattr(text, "hidden_size", None),
        "vocab_size": getattr(text, "vocab_size", None),
        "dtype": _dtype_name(model),
        "config_hash": hashlib.sha256(config_json.encode()).hexdigest(),
        "weights_fingerprint": weights_fingerprint(model),
        "torch": version("torch"),
        "transformers": version("transformers"),
        **layout_of(model).card(),
    }


def active_parameters(model: nn.Module, routers: list[RouterSpec]) -> int | None:
    """Parameters that one token uses: all of them, less the share E − k of E of every routed experts module.

    None where a router's experts module is not known or its k varies.
    """
    modules = dict(model.named_modules())
    idle = 0.0
    for spec in routers:
        experts = modules.get(spec.experts or "")
        if experts is None or spec.top_k is None:
            return None
        size = sum(parameter.numel() for parameter in experts.parameters())
        idle += size * (1 - spec.top_k / spec.num_experts)
    return sum(parameter.numel() for parameter in model.parameters()) - round(idle)


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and sampled values of all parameters and persistent buffers."""
    digest = hashlib.sha256()
    on_disk = _sampled_on_disk(model)
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        if name in on_disk:
            digest.update(on_disk[name])
        elif tensor.device.type != "meta" and tensor.numel():
            digest.update(_sampled(tensor).numpy().tobytes())
    return digest.hexdigest()


def _sampled_on_disk(model: nn.Module) -> dict[str, bytes]:
    """Sampled values of weights that come into memory only when they are used, layer by layer."""
    found: dict[str, bytes] = {}
    for path, module in model.named_modules():
        if is_elsewhere(module):
            with in_memory(module):
                for name, tensor in module.state_dict(prefix=f"{path}." if path else "").items():
                    if isinstance(tensor, Tensor) and tensor.device.type != "meta" and tensor.numel():
                        found[name] = _sampled(tensor).numpy().tobytes()
    return found


def _sampled(tensor: Tensor) -> Tensor:
    flat = _whole(tensor.detach()).reshape(-1)
    picked = flat[:: max(1, flat.numel() // SAMPLES)][: 2 * SAMPLES].cpu()
    return picked.float() if picked.is_floating_point() else picked


def _whole(tensor: Tensor) -> Tensor:
    """The tensor with what other ranks hold of it; all ranks come here in the same order."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _dtype_name(model: nn.Module) -> str | None:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return None if parameter is None else str(parameter.dtype).removeprefix("torch.")


def stable_config(config: Any) -> Any:
    """A configuration without what depends on where and how it was loaded."""
    if isinstance(config, dict):
        return {key: stable_config(value) for key, value in config.items() if key not in _VOLATILE}
    return [stable_config(item) for item in config] if isinstance(config, list | tuple) else config
