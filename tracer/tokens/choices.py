"""Multiple choice: the log-likelihood of each choice as a continuation of its prompt.

Choices are read directly after the text, and scored by the sum of their tokens' log-probabilities; the
highest sum is the model's answer. A token that holds both text and choice counts as the choice's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.input_device import input_device
from ..prompts.prompt import Prompt
from .batches import Batch, collate, plan_batches
from .encode import Encoded, Encoder


@torch.inference_mode()
def choice_logprobs(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    *,
    pad_id: int,
    batch_tokens: int = 8192,
    before: Callable[[Sequence[Encoded]], None] = lambda encoded: None,
) -> list[list[float] | None]:
    """Log-likelihood (nats) of every choice of every prompt; None for a prompt without choices.

    Args:
        before: told of the sequences of each pass before it runs.
    """
    sequences: list[Encoded] = []
    owner: list[int] = []
    for number, prompt in enumerate(prompts):
        encoded = encoder.choices(prompt)
        sequences += encoded
        owner += [number] * len(encoded)
    results: list[list[float] | None] = [[] if prompt.choices else None for prompt in prompts]
    if not sequences:
        return results
    scores = np.zeros(len(sequences))
    lengths = np.asarray([len(sequence) for sequence in sequences])
    for chosen in plan_batches(lengths, batch_tokens):
        batch = collate([sequences[i] for i in chosen], pad_id=pad_id)
        before(batch.encoded)
        scores[chosen] = _completion_logprobs(model, batch)
    for number, value in zip(owner, scores.tolist(), strict=True):
        own = results[number]
        assert own is not None
        own.append(value)
    return results


def picked(logprobs: Sequence[float]) -> int:
    """Index of the choice that the model finds likeliest; the first of equals."""
    return int(np.argmax(logprobs))


def _completion_logprobs(model: Any, batch: Batch) -> np.ndarray:
    """Sum of log-probabilities of the completion tokens of each sequence, (B,)."""
    device = input_device(model)
    ids_BS = batch.input_ids_BS.to(device)
    output = model(input_ids=ids_BS, attention_mask=batch.mask_BS.to(device), use_cache=False)
    wanted_BS = torch.zeros(ids_BS.shape, dtype=torch.bool)
    for row, sequence in enumerate(batch.encoded):
        wanted_BS[row, : len(sequence)] = torch.from_numpy(sequence.completion)
    wanted_BS[:, 0] = False  # nothing comes before the first token that could predict it
    row_N, column_N = wanted_BS.nonzero(as_tuple=True)
    logits_NV: Tensor = output.logits[row_N.to(output.logits.device), (column_N - 1).to(output.logits.device)]
    token_N = ids_BS[row_N.to(device), column_N.to(device)].to(logits_NV.device)
    logits_NV = (logits_NV.cpu() if logits_NV.device.type == "mps" else logits_NV).double()
    token_N = token_N.to(logits_NV.device)
    logprob_N = logits_NV.gather(1, token_N.unsqueeze(1)).squeeze(1) - logits_NV.logsumexp(-1)
    return torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row_N, logprob_N.double().cpu()).numpy()
