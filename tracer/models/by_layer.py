"""A model whose layers stay on disk and come into memory one at a time (`--device disk`), by accelerate.

What is no layer (embeddings, the head) lies in memory. Every forward pass reads all layers once, so few passes over
many tokens are what it is for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .load_errors import ModelError

DISK = "disk"


def disk_map(auto_class: Any, config: Any) -> dict[str, str]:
    """`device_map` of a model by module path: every layer on disk, the rest on the CPU.

    Raises:
        ModelError: accelerate is not there, or the model has no list of layers.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError("--device disk needs accelerate: pip install accelerate")
    with torch.device("meta"):
        model = auto_class.from_config(config)
    places = dict(_places(model, ""))
    if DISK not in places.values():
        raise ModelError(f"--device disk: {type(model).__name__} has no list of layers")
    return places


def _places(module: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    for name, child in module.named_children():
        at = f"{path}.{name}" if path else name
        if _is_stack(child):
            yield from ((f"{at}.{number}", DISK) for number in range(len(child)))  # pyright: ignore[reportArgumentType]
        elif any(_is_stack(inner) for inner in child.modules()):
            yield from _places(child, at)
        else:
            yield at, "cpu"


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a list of like layers that hold weights."""
    if not isinstance(module, nn.ModuleList) or len(module) < 2:
        return False
    return all(any(True for _ in layer.parameters()) for layer in module)


@contextmanager
def in_memory(module: nn.Module) -> Iterator[None]:
    """The weights of a module itself while the context is open, where accelerate keeps them elsewhere."""
    if not is_elsewhere(module):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def is_elsewhere(module: nn.Module) -> bool:
    """Whether a hook of accelerate brings the weights of this module when it runs."""
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    return any(getattr(one, "offload", False) for one in hooks)
