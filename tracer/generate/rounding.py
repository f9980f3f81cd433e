"""Log-probabilities that add no noise of their own, and how much the model's passes add.

In float32 a log-softmax over a large vocabulary is wrong by about 1e-7, which shows as a KL of 4e-7 between equal
models; in float64 what is left is what the passes themselves round.

Shapes: B sequences, S tokens, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .live_model import LiveModel

FLOOR_TOKENS = 64
MARGIN = 4.0
"""The floor is this many times the largest KL that was seen: other texts round a little further."""


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, float64; on the CPU where the device has no float64."""
    return (logits.cpu() if logits.device.type == "mps" else logits).double().log_softmax(-1)


@torch.inference_mode()
def rounding_floor(live: LiveModel, ids: Sequence[int]) -> float:
    """The largest KL (nats) that rounding alone makes of a text on this machine, times `MARGIN`.

    Between equal sequences at two places of one batch, and between one sequence beside itself and beside another.
    """
    own_S = torch.tensor(list(ids)[:FLOOR_TOKENS], device=live.device)
    found = []
    for other_S in (own_S, own_S.flip(0)):
        ids_BS = torch.stack([own_S, other_S])
        output, _ = live.forward(
            [None], input_ids=ids_BS, attention_mask=torch.ones_like(ids_BS), use_cache=False
        )
        found.append(log_probabilities(output.logits))
    beside_itself, beside_other = found
    base_SV = beside_itself[0]
    others = (beside_itself[1], beside_other[0])
    return MARGIN * max(float((base_SV.exp() * (base_SV - x_SV)).nansum(-1).max()) for x_SV in others)
