"""Batches: prompts of similar length together, padded to one length, with a map back to the real tokens.

Shapes: B sequences, S padded length, T real tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .encode import Encoded

Side = Literal["left", "right"]

WINDOW = 32
"""Batches among which prompts are sorted by length: an unfinished trace is then cut off near one place of the
prompt set, and not short of all its long prompts."""


@dataclass(frozen=True)
class Batch:
    """Padded sequences. Real tokens are counted in the order of (sequence, position)."""

    input_ids_BS: Tensor
    mask_BS: Tensor
    """1 at real tokens."""
    keep_T: Tensor
    """Place of each real token in the flattened (B, S)."""
    sequence_T: np.ndarray
    """int32: which sequence a token belongs to."""
    position_T: np.ndarray
    """int32: its position there, from 0, padding not counted."""
    encoded: Sequence[Encoded]

    def __len__(self) -> int:
        return len(self.encoded)


def plan_batches(
    lengths: np.ndarray, batch_tokens: int, *, batch_size: int | None = None, extra: int = 0
) -> list[np.ndarray]:
    """Which prompts run together.

    The plan depends on all lengths and on nothing else, so a resumed run forms the same batches.

    Args:
        lengths: tokens of each prompt, (P,).
        batch_tokens: padded tokens that a batch may hold; a longer prompt runs alone.
        batch_size: prompts that a batch may hold at most.
        extra: tokens that will be generated after each prompt.
    Returns:
        Prompt numbers, ascending within each batch; every prompt once.
    """
    plan: list[np.ndarray] = []
    for first, last in _windows(lengths + extra, batch_tokens * WINDOW):
        longest_first = first + np.argsort(-lengths[first:last], kind="stable")
        while len(longest_first):
            width = int(lengths[longest_first[0]]) + extra
            count = max(1, min(batch_tokens // max(width, 1), batch_size or len(longest_first)))
            plan.append(np.sort(longest_first[:count]))
            longest_first = longest_first[count:]
    return plan


def shuffled(plan: list[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """The batches in an order that depends on their number and the seed alone: what an unfinished trace holds is then
    a fair sample of the prompt set, not its beginning or its longest prompts. A resumed run forms the same order."""
    order = np.random.default_rng(seed).permutation(len(plan))
    return [plan[number] for number in order]


def _windows(costs: np.ndarray, budget: int) -> list[tuple[int, int]]:
    """Consecutive prompts of about `budget` tokens."""
    if not len(costs):
        return []
    number = np.cumsum(costs, dtype=np.int64) // max(budget, 1)
    edges = np.flatnonzero(np.diff(number)) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(costs)], strict=True))


def collate(encoded: Sequence[Encoded], *, pad_id: int, side: Side = "right") -> Batch:
    """Pads token sequences into one batch. For a causal model padding on the right never reaches a real
    token."""
    lengths = np.asarray([len(sequence) for sequence in encoded])
    width = int(lengths.max())
    ids_BS = np.full((len(encoded), width), pad_id, np.int64)
    column_S = np.arange(width)
    # (B, S) where a real token stands; filled row by row, so one long array of all ids fits into it.
    start_B = width - lengths if side == "left" else np.zeros_like(lengths)
    real_BS = (column_S >= start_B[:, None]) & (column_S < (start_B + lengths)[:, None])
    ids_BS[real_BS] = np.concatenate([sequence.ids for sequence in encoded])
    keep_T = np.flatnonzero(real_BS)
    sequence_T = (keep_T // width).astype(np.int32)
    position_T = (keep_T - sequence_T * width - start_B[sequence_T]).astype(np.int32)
    return Batch(
        input_ids_BS=torch.from_numpy(ids_BS),
        mask_BS=torch.from_numpy(real_BS.astype(np.int64)),
        keep_T=torch.from_numpy(keep_T),
        sequence_T=sequence_T,
        position_T=position_T,
        encoded=encoded,
    )
