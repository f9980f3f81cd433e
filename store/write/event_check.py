"""Events of one router as they are handed in: checked against the trace, and laid end to end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import BadPart
from ..files.layout import EVENT_SCALARS
from ..schema import RouterEvents, RouterSpec


class FlatEvents(NamedTuple):
    """Chosen experts end to end, as Parquet's lists hold them; empty slots are left out.

    experts_S (S,) and weights_S (S,) float32 or None, offsets (N + 1,): event n holds slots offsets[n]:offsets[n + 1].
    """

    experts_S: np.ndarray
    weights_S: np.ndarray | None
    offsets: np.ndarray


class EventCheck:
    """Refuses events that contradict themselves or the trace, and lays the others end to end.

    Args:
        names: the columns that the trace records.
        expert_type, weight_type: of NumPy, as the trace stores them.
    """

    def __init__(self, names: list[str], expert_type: type, weight_type: np.dtype):
        self._names = names
        self._expert_type = expert_type
        self._weight_type = weight_type

    def flat(self, spec: RouterSpec, events: RouterEvents, prompts: int) -> FlatEvents:
        """The events of a router end to end.

        Args:
            prompts: how many the part has.
        Raises:
            BadPart: they contradict themselves or the trace; the message names layer and stream.
        """
        _check_rows(spec, events, prompts)
        flat = self._end_to_end(spec, events)
        self._check_extras(events, len(flat.experts_S))
        return flat

    def _end_to_end(self, spec: RouterSpec, events: RouterEvents) -> FlatEvents:
        experts = events.experts
        rows = len(events.prompt)
        offsets = events.offsets
        if offsets is None:
            offsets = np.arange(rows + 1, dtype=np.int64) * experts.shape[1]
        experts_S = experts.reshape(-1)
        weights_S = None if events.weights is None else self._rounded(events.weights.reshape(-1))
        where = f"layer {spec.layer} ({spec.stream})"
        if len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != len(experts_S):
            raise BadPart(f"{where}: offsets do not span the experts")
        if (np.diff(offsets) < 0).any():
            raise BadPart(f"{where}: offsets fall")
        if len(experts_S) and int(experts_S.max()) >= spec.num_experts:
            raise BadPart(f"{where}: expert {int(experts_S.max())}, but the router has {spec.num_experts}")
        if len(experts_S) and int(experts_S.min()) < 0:
            kept = experts_S >= 0
            offsets = np.r_[0, np.cumsum(kept)][offsets]
            experts_S = experts_S[kept]
            weights_S = None if weights_S is None else weights_S[kept]
        return FlatEvents(experts_S.astype(self._expert_type, copy=False), weights_S, offsets)

    def _check_extras(self, events: RouterEvents, slots: int) -> None:
        for name, values in events.extras.items():
            if name not in self._names:
                continue
            by_event = name in (*EVENT_SCALARS, "logits")
            found = len(values) if by_event else values.size
            wanted, what = (len(events.position), "events") if by_event else (slots, "chosen experts")
            if found != wanted:
                raise BadPart(f"{name} has {found} values for {wanted} {what}")

    def _rounded(self, weights: np.ndarray) -> np.ndarray:
        """Gate weights as they are stored: rounded to the trace's weight type, kept as float32."""
        if weights.dtype != self._weight_type and self._weight_type == np.float16:
            limit = np.finfo(np.float16).max
            if np.max(np.abs(weights), initial=0, where=np.isfinite(weights)) > limit:
                raise BadPart(f"a gate weight is beyond {limit}: store this trace with weight_type='float32'")
            weights = weights.astype(np.float16)
        return weights.astype(np.float32, copy=False)


def _check_rows(spec: RouterSpec, events: RouterEvents, prompts: int) -> None:
    where = f"layer {spec.layer} ({spec.stream})"
    rows = len(events.prompt)
    if len(events.position) != rows:
        raise BadPart(f"{where}: {rows} prompts but {len(events.position)} positions")
    if rows and (events.prompt.min() < 0 or events.prompt.max() >= prompts):
        raise BadPart(f"{where}: an event names a prompt that the part does not have")
    if events.offsets is None and (events.experts.ndim != 2 or len(events.experts) != rows):
        raise BadPart(f"{where}: experts have shape {events.experts.shape}, expected ({rows}, k)")
    if events.weights is not None and events.weights.shape != events.experts.shape:
        raise BadPart(f"{where}: weights have shape {events.weights.shape}, not that of the experts")
