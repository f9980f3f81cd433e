"""Generation that learns its routing on the way ("Rewiring Experts on the Fly", arXiv 2510.14853).

1. Before the first token, vectors are learned on the prompt (`learn_vector`).
2. The answer is generated under them.
3. After every `renew_every` new tokens they are learned again on the prompt and all that was written since, from where
   they were or from zero (`reset`), and the text goes on under the new ones. The cache is filled anew: its old entries
   belong to the old routing.

Vectors belong to one text: they are learned for each prompt by itself and forgotten with it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..models.forward import stop_token_ids
from ..steering.learn_vector import Layers, learn_vector
from ..steering.profile import Steering
from ..tokens.batches import Batch
from .batch import Sampling, generate_batch, trimmed


@dataclass(frozen=True, kw_only=True)
class Rewiring:
    """How vectors are learned during a generation; the defaults are the paper's."""

    steps: int = 5
    """Gradient steps each time; 0 learns nothing and changes nothing."""
    lr: float = 0.05
    layers: Layers = "all"
    renew_every: int = 128
    """Generated tokens after which they are learned again; 0 learns once, on the prompt."""
    reset: bool = False
    """Learn again from zero, not from where the vectors were."""
    on_learn: Callable[[int, Steering], None] | None = None
    """Told of each learning: after how many generated tokens, and the vectors."""


def rewired(
    model: Any,
    tokenizer: Any,
    batch: Batch,
    sampling: Sampling,
    how: Rewiring,
    steering: Steering | None = None,
) -> Tensor:
    """New tokens of one sequence under vectors that are learned on the way, (1, N) on the CPU.

    Args:
        batch: holds one sequence.
        steering: acts before the vectors, also while they are learned.
    """
    stop_ids, new = stop_token_ids(model), []
    every = how.renew_every or sampling.max_new_tokens
    if how.steps == 0:
        every = sampling.max_new_tokens
    context_BS = batch.input_ids_BS[:, batch.mask_BS[0].bool()]
    given, vectors = context_BS.shape[1], None
    while len(new) < sampling.max_new_tokens and not (new and new[-1] in stop_ids):
        if how.steps:
            start = None if how.reset else vectors
            with steering.applied(model, prompt_lengths=[given]) if steering else nullcontext():
                vectors = learn_vector(
                    model, context_BS, steps=how.steps, lr=how.lr, layers=how.layers, start=start
                )
            if how.on_learn is not None:
                how.on_learn(len(new), vectors)
        part = replace(
            sampling,
            max_new_tokens=min(every, sampling.max_new_tokens - len(new)),
            seed=sampling.seed + len(new),
        )
        both = [one for one in (steering, vectors) if one]
        whole = sum(both[1:], start=both[0]) if both else None
        work = replace(batch, input_ids_BS=context_BS, mask_BS=torch.ones_like(context_BS))
        with whole.applied(model, prompt_lengths=[given]) if whole else nullcontext():
            new_1N = generate_batch(model, tokenizer, work, part)
        new += trimmed(new_1N[0], stop_ids)
        context_BS = torch.cat([batch.input_ids_BS[:, batch.mask_BS[0].bool()], torch.tensor([new])], 1)
    return torch.tensor([new])
