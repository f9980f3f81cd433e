"""Where a model wants its input, also where accelerate keeps the weights elsewhere and brings them when needed."""

from __future__ import annotations

from typing import Any

import torch


def input_device(model: Any) -> torch.device:
    """The device that token ids must be on.

    An offloaded embedding's weight is on `meta`; its hook knows where it runs. A quantised or replaced one may have
    no `weight` at all.
    """
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if (found := getattr(one, "execution_device", None)) is not None:
            return torch.device(found)
    modules = (embedding, model) if embedding is not None else (model,)
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.device.type != "meta":
                return tensor.device
    return torch.device("cpu")
