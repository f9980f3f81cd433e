"""Mean loss of a model on recorded prompts, with and without some of its experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..models.forward import evaluating
from ..models.input_device import input_device
from .checkpoint import keep_only


@torch.inference_mode()
def mean_loss(
    model: Any, prompts: Sequence[Sequence[int]], kept: Mapping[int, Sequence[int]] | None = None
) -> np.ndarray:
    """(P, 2) summed negative log-likelihood (nats) and predicted tokens of each prompt.

    Args:
        prompts: token ids.
        kept: layer → experts that stay; all where None.
    """
    from contextlib import nullcontext

    out = np.zeros((len(prompts), 2))
    steering = nullcontext() if kept is None else keep_only(kept).applied(model)
    with evaluating(model), steering:
        for at, ids in enumerate(prompts):
            if len(ids) < 2:
                continue
            ids_1T = torch.as_tensor(list(ids), dtype=torch.int64, device=input_device(model)).unsqueeze(0)
            logits = model(input_ids=ids_1T).logits[0, :-1].float()
            out[at] = (
                float(torch.nn.functional.cross_entropy(logits, ids_1T[0, 1:], reduction="sum")),
                len(ids) - 1,
            )
    return out
