"""Whether vLLM rotates queries and keys of latent attention as its own formula does. Nothing here imports vLLM.

Found with vLLM 0.32 on CPUs: its rotary kernel takes queries of shape (tokens, heads, size) for
(tokens, heads x size) and ignores the strides of slices, so that every position but the first of DeepSeek-V2 and -V3
differs from the checkpoint's own code. vLLM's version of the step in PyTorch is right, and `custom_ops` chooses it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TOLERANCE = 2e-2
"""Largest difference between the two, of values up to 1: bfloat16 has 8 bits."""


def rotation_problems(model: Any, architecture: str) -> list[str]:
    """One sentence where a rotary embedding of a model with latent attention is wrong. On a CPU only: no other kernel
    was seen to be."""
    rotaries = [module for module in model.modules() if hasattr(module, "cos_sin_cache")]
    if not any(one.cos_sin_cache.device.type == "cpu" and _is_wrong(one) for one in rotaries):
        return []
    return [
        f"{architecture} has latent attention (MLA), and vLLM's rotary kernel for CPUs rotates the wrong elements of "
        "its queries and keys: every position but the first differs from the checkpoint's own code; use vLLM's PyTorch "
        "version of that step: "
        """--engine-arg 'compilation_config={"custom_ops": ["-rotary_embedding"]}'"""
    ]


@torch.inference_mode()
def _is_wrong(rotary: Any) -> bool:
    """Compare with vLLM's own formula, on slices as latent attention makes them."""
    positions = torch.tensor([0, 1, 3, 7])
    query, key = _slice(rotary, heads=2), _slice(rotary, heads=1)
    expected = rotary.forward_native(positions, query.clone(), key.clone())
    found = rotary(positions, query, key)
    return any(bool((mine - own).abs().max() > TOLERANCE) for mine, own in zip(found, expected, strict=True))


def _slice(rotary: Any, heads: int) -> Tensor:
    """(4, heads, size): the end of the last dimension of a larger tensor; values within 1."""
    shape = (4, heads, 2 * rotary.head_size)
    values = torch.arange(float(4 * heads * shape[-1])).sin().reshape(shape).to(rotary.cos_sin_cache.dtype)
    return values[..., rotary.head_size :]
