"""The decode steps of one batch: the tiny tensors of all routers, stacked and stored once a step.

Two copies a layer would cost more than the step itself.

Shapes: G routers stored together, B sequences, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...store.schema import RouterKey, RouterSpec
from ..errors import CaptureError
from .arena import Slot
from .captured_batch import Stored
from .device_buffers import DeviceBuffers
from .segment_sums import RunningSums, Sums, score

Routed = tuple[RouterSpec, Tensor, Tensor | None, Tensor | None]
ExpertOutputs = tuple[Tensor | None, Tensor | None]


class DecodeSteps:
    """What is kept of the steps that follow the prompts of a batch.

    Args:
        buffers: where it is put.
        special_ids: token ids that are special wherever they stand.
        stop_ids: token ids that end a generated sequence.
    """

    def __init__(
        self, buffers: DeviceBuffers, special_ids: np.ndarray | None, stop_ids: Sequence[int]
    ) -> None:
        self._buffers = buffers
        self._special_ids = torch.as_tensor(special_ids if special_ids is not None else [], dtype=torch.int64)
        self._stop_ids = torch.as_tensor(list(stop_ids), dtype=torch.int64)
        self._ids_on: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.clear()

    def clear(self) -> None:
        """Before a batch: no step yet, and none expected."""
        self.stored: list[list[Stored]] = []
        self.alive: list[Slot] = []
        """A slot a step: which sequences still ran. `fed`: what they were fed. `special`: whether that is special."""
        self.fed: list[Slot] = []
        self.special: list[Slot] = []
        self.running: Tensor | None = None
        """(B,) bool: which sequences run; None while the prompts do."""
        self._sums: dict[tuple[RouterKey, ...], tuple[list[RouterSpec], RunningSums]] = {}

    def begin(self, sequences: int) -> None:
        """The prompts are over: every sequence runs."""
        self.running = torch.ones(sequences, dtype=torch.bool)

    @property
    def home(self) -> torch.device:
        """Where `alive`, `fed` and `special` lie."""
        return self.running.device if self.running is not None else torch.device("cpu")

    def sums(self) -> list[tuple[list[RouterSpec], Sums]]:
        return [(specs, running.sums) for specs, running in self._sums.values()]

    def add(self, fed_B: Tensor, called: Iterable[Routed], outputs: dict[RouterKey, ExpertOutputs]) -> None:
        """Store a step: the tokens that it fed, what each router decided, and what experts put out."""
        assert self.running is not None
        if self.running.device != fed_B.device:
            self.running = self.running.to(fed_B.device)
        stop_ids, special_ids = self._known_ids(fed_B.device)
        self.running = self.running & torch.isin(fed_B, stop_ids, invert=True)
        arena = self._buffers.arena(fed_B.device)
        self.alive.append(arena.put(self.running.unsqueeze(0), torch.bool))
        self.fed.append(arena.put(fed_B.unsqueeze(0), torch.int32))
        special_B = torch.isin(fed_B, special_ids)
        self.special.append(arena.put(special_B.unsqueeze(0), torch.bool))
        nowhere = 2 * len(fed_B)
        sequence_B = torch.arange(len(fed_B), device=fed_B.device)
        segment_B = torch.where(self.running, 2 * sequence_B + special_B, nowhere)
        self.stored.append([self._store(group, segment_B, outputs) for group in _alike(called)])

    def _known_ids(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Stop and special ids there, moved once: each move would wait for the device."""
        if device not in self._ids_on:
            self._ids_on[device] = (moved(self._stop_ids, device), moved(self._special_ids, device))
        return self._ids_on[device]

    def _store(
        self, group: list[Routed], segment_B: Tensor, outputs: dict[RouterKey, ExpertOutputs]
    ) -> Stored:
        specs = [routed[0] for routed in group]
        ids_GBK, weights_GBK, logits_GBE = (_stacked([routed[i] for routed in group]) for i in (1, 2, 3))
        assert ids_GBK is not None
        if ids_GBK.shape[1] != len(segment_B):
            raise CaptureError(
                f"{specs[0].router} decided about {ids_GBK.shape[1]} rows in a step of {len(segment_B)}"
            )
        scores = None if logits_GBE is None else score(logits_GBE, specs[0].scoring)
        if scores is not None:
            keys = tuple(spec.key for spec in specs)
            if keys not in self._sums:
                shape = (len(specs), 2 * len(segment_B), scores.probability_GNE.shape[-1])
                self._sums[keys] = specs, RunningSums(*shape, ids_GBK.device)
            self._sums[keys][1].add(scores, segment_B.to(ids_GBK.device))
        stored = self._buffers.store(specs, ids_GBK, weights_GBK, logits_GBE, scores, None)
        if outputs:
            put_out = [outputs[spec.key] for spec in specs]
            self._buffers.store_outputs(
                stored, [_stacked([output[i] for output in put_out]) for i in (0, 1)], None
            )
        return stored


def _alike(called: Any) -> list[list[Routed]]:
    """Router calls that can be stacked: same device, shapes, experts and scoring."""
    groups: dict[Any, list[Routed]] = {}
    for routed in called:
        spec, ids, weights, logits = routed
        shapes = [
            None if tensor is None else (tensor.shape, tensor.dtype) for tensor in (ids, weights, logits)
        ]
        groups.setdefault((ids.device, spec.num_experts, spec.scoring, str(shapes)), []).append(routed)
    return list(groups.values())


def _stacked(tensors: list[Any]) -> Tensor | None:
    return None if tensors[0] is None else torch.stack(tensors)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
