"""The buffers of a trace's sink: what is kept of routing decisions, in arenas, one a device.

Shapes: G routers stored together, N rows, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from ...store.schema import RouterSpec
from ..hooks.outputs import OUTPUTS
from .arena import Arena, HostArena
from .captured_batch import Stored, id_type
from .segment_sums import Scores, Sums


class DeviceBuffers:
    """Where one batch's results are put.

    Args:
        capture: of `CAPTURES`: which extras to keep beside ids and weights.
        weight_type: of gate weights.
    """

    def __init__(self, capture: Collection[str], weight_type: torch.dtype) -> None:
        self._capture = set(capture)
        self._weight_type = weight_type
        self._arenas: dict[torch.device, Arena] = {}

    def clear(self) -> None:
        """Forget what an earlier, failed batch left."""
        for arena in self._arenas.values():
            arena.to_host()

    def to_hosts(self) -> dict[torch.device, HostArena]:
        """Everything on its way to the host; the next batch begins anew."""
        return {device: arena.to_host() for device, arena in self._arenas.items()}

    def arena(self, device: torch.device) -> Arena:
        """The arena of one device."""
        if device not in self._arenas:
            self._arenas[device] = Arena(device)
        return self._arenas[device]

    def store_outputs(self, stored: Stored, values: Sequence[Tensor | None], rows: Tensor | None) -> None:
        """Add norms (G, N, K) and similarities (G, N), in the order of `OUTPUTS`, to what is stored already."""
        for name, value in zip(OUTPUTS, values, strict=True):
            if value is not None:
                self._keep(stored, name, value, torch.float32, rows)

    def _keep(
        self, stored: Stored, name: str, values: Tensor, dtype: torch.dtype, rows: Tensor | None
    ) -> None:
        arena = self.arena(stored.device)
        stored.slots[name] = arena.put(values, dtype) if rows is None else arena.put_rows(values, dtype, rows)

    def store(
        self,
        specs: list[RouterSpec],
        ids_GNK: Tensor,
        weights_GNK: Tensor | None,
        logits_GNE: Tensor | None,
        scores: Scores | None,
        rows: Tensor | None,
    ) -> Stored:
        """Keep the decisions of some routers; only `rows` of dimension 1, where given."""
        stored = Stored(specs, ids_GNK.device)
        keep = partial(self._keep, stored, rows=rows)
        keep("ids", ids_GNK, id_type(specs[0].num_experts))
        if weights_GNK is not None and "weights" in self._capture:
            keep("weights", weights_GNK, self._weight_type)
        if logits_GNE is not None and "logits" in self._capture:
            keep("logits", logits_GNE, torch.float32)
        if scores is not None and "entropy" in self._capture:
            keep("entropy", scores.entropy_GN.masked_fill(scores.nan_GN, torch.nan), torch.float32)
        if scores is not None and "probability" in self._capture:
            chosen_GNK = scores.probability_GNE.gather(-1, ids_GNK.long().clamp_min(0))
            keep("probability", chosen_GNK.masked_fill(scores.nan_GN.unsqueeze(-1), torch.nan), torch.float32)
        return stored

    def store_sums(self, phase: str, specs: list[RouterSpec], sums: Sums) -> Stored:
        """Keep the sums of some routers."""
        device = sums.probability_GRE.device
        arena = self.arena(device)
        stored = Stored(specs, device)
        for name, values in (("probability_sum", sums.probability_GRE), ("entropy_sum", sums.entropy_GR)):
            stored.slots[f"{phase} {name}"] = arena.put(values, torch.float32)
        stored.slots[f"{phase} nan_tokens"] = arena.put(sums.nan_GR, torch.int32)
        return stored
