"""One batch on its way from the device to the host: where everything lies, and how it is found there.

Shapes: G routers stored together, N rows, T prompt tokens, B sequences, R segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...store.schema import RouterSpec
from ..tokens.batches import Batch
from .arena import HostArena, Slot

CLASSES = 4
"""Of prompt tokens: special + 2 · completion."""


@dataclass
class Stored:
    """What is stored of G routers for one pass: slots of arrays with leading (G, N)."""

    routers: list[RouterSpec]
    device: torch.device
    slots: dict[str, Slot] = field(default_factory=dict)


@dataclass
class CapturedBatch:
    """One batch on its way to the host."""

    batch: Batch
    prefill: list[Stored]
    steps: list[list[Stored]]
    sums: list[Stored]
    hosts: dict[torch.device, HostArena]
    alive: list[Slot]
    """A slot a decode step, on `home`: bool (1, B), whether the sequence still ran."""
    fed: list[Slot]
    """A slot a decode step, on `home`: int32 (1, B), the token that was fed."""
    special: list[Slot]
    """A slot a decode step, on `home`: bool (1, B), whether the fed token is a special one."""
    home: torch.device

    def array(self, stored: Stored, name: str) -> np.ndarray | None:
        slot = stored.slots.get(name)
        return None if slot is None else self.hosts[stored.device].array(slot)

    def decode_rows_R(self) -> np.ndarray:
        """(2 B,) bool: which segments of generated tokens have tokens; the odd ones are special tokens."""
        alive_SB, special_SB = self.step_array(self.alive), self.step_array(self.special)
        used = [(alive_SB & ~special_SB).any(0), (alive_SB & special_SB).any(0)]
        return np.stack(used, axis=1).reshape(-1)

    def step_array(self, slots: Sequence[Slot]) -> np.ndarray:
        """(steps, B)."""
        return np.concatenate([self.hosts[self.home].array(slot) for slot in slots])


def prompt_segments(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Segments of the prompt tokens of a batch.

    Returns:
        For each segment CLASSES · sequence + class, ascending (R,); and for each token its segment (T,).
    """
    special_T = np.concatenate([sequence.special for sequence in batch.encoded])
    completion_T = np.concatenate([sequence.completion for sequence in batch.encoded])
    code_T = CLASSES * batch.sequence_T.astype(np.int64) + special_T + 2 * completion_T
    code_R, segment_T = np.unique(code_T, return_inverse=True)
    return code_R, segment_T.reshape(-1)


def id_type(num_experts: int) -> torch.dtype:
    """The narrowest type that holds every expert id, and one value more for an empty slot (-1)."""
    return torch.uint8 if num_experts < 256 else torch.int16 if num_experts < 2**15 else torch.int32
