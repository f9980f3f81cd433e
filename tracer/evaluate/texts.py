"""What a model writes after each prompt, greedily, under one steering; in batches, step by step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch

from ..generate.batch import pad_token_id, trimmed
from ..generate.lanes import Lane
from ..generate.live_model import LiveModel
from ..models.forward import stop_token_ids
from ..steering.profile import Steering
from ..tokens.encode import Encoded

BATCH = 16


def write_texts(
    live: LiveModel,
    tokenizer: Any,
    prompts: Sequence[Encoded],
    steering: Steering | None,
    max_new_tokens: int,
) -> Generator[int, None, list[str]]:
    """Yields after every step how many prompts are finished; returns the texts in the prompts' order."""
    texts = [""] * len(prompts)
    stop_ids, finished = stop_token_ids(live.model), 0
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    for start in range(0, len(prompts), BATCH):
        numbers = order[start : start + BATCH]
        ids = [prompts[i].ids.tolist() for i in numbers]
        completes = any(prompts[i].completion.any() for i in numbers)
        lane = Lane(
            live, ids, [steering] * len(ids), pad_id=pad_token_id(tokenizer),
            prompt_lengths=[prompts[i].prompt_length for i in numbers] if completes else None,
        )  # fmt: skip
        new_NB: list[list[int]] = []
        while len(new_NB) < max_new_tokens and not _all_ended(new_NB, stop_ids):
            step = lane.step()
            new_NB.append(step.logprobs_BV.argmax(-1).tolist())
            lane.feed(new_NB[-1])
            yield finished
        for i, column in zip(numbers, zip(*new_NB, strict=True), strict=True):
            texts[i] = tokenizer.decode(trimmed(torch.tensor(column), stop_ids), skip_special_tokens=True)
        finished += len(numbers)
    return texts


def _all_ended(new_NB: list[list[int]], stop_ids: Sequence[int]) -> bool:
    ended = (any(token in stop_ids for token in column) for column in zip(*new_NB, strict=True))
    return bool(new_NB) and all(ended)
