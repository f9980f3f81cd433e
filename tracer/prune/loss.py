"""Mean loss of a model on recorded prompts, with and without some of its experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from ..models.forward import evaluating
from ..models.input_device import input_device
from .checkpoint import keep_only


@torch.inference_mode()
def mean_loss(
    model: Any,
    prompts: Sequence[Sequence[int]],
    kept: Mapping[int, Sequence[int]] | None = None,
    *,
    batch: int = 1,
) -> np.ndarray:
    """(P, 2) summed negative log-likelihood (nats) and predicted tokens of each prompt.

    Args:
        prompts: token ids.
        kept: layer → experts that stay; all where None.
        batch: prompts of like length that run together, padded at their ends.
    """
    from contextlib import nullcontext

    out = np.zeros((len(prompts), 2))
    steering = nullcontext() if kept is None else keep_only(kept).applied(model)
    with evaluating(model), steering:
        by_length = sorted(
            (at for at, ids in enumerate(prompts) if len(ids) > 1), key=lambda at: len(prompts[at])
        )
        for first in range(0, len(by_length), batch):
            rows = by_length[first : first + batch]
            ids_BT, real_BT = _padded([prompts[at] for at in rows], input_device(model))
            logits_BTV = model(input_ids=ids_BT, attention_mask=real_BT.long()).logits[:, :-1].float()
            loss_BT = cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
            out[rows, 0] = loss_BT.masked_fill(~real_BT[:, 1:], 0).double().sum(-1).cpu().numpy()
            out[rows, 1] = real_BT[:, 1:].sum(-1).cpu().numpy()
    return out


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and which of them are no padding, both (B, T)."""
    ids = [torch.as_tensor(list(one), dtype=torch.int64) for one in prompts]
    real = [torch.ones(len(one), dtype=torch.bool) for one in ids]
    return pad_sequence(ids, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)
