"""One run over some prompts, and how two runs of the same prompts differ.

Shapes: T tokens of a prompt, K experts per token (empty slots are -1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...kernels.statistics.bootstrap import FEWEST_UNITS, interval_of_enough
from ...store.noise import Variation
from ...store.schema import RouterKey
from ..hooks.record import record_routing
from ..models.forward import forward_options
from ..models.input_device import input_device
from ..tokens.batches import collate
from ..tokens.encode import Encoded

Decisions = dict[RouterKey, tuple[np.ndarray, np.ndarray | None]]
"""Of one prompt, by router: ids and gate weights, both (T, K)."""


@torch.inference_mode()
def decisions(
    model: Any, encoded: Sequence[Encoded], plan: Sequence[Sequence[int]], *, pad_id: int
) -> list[Decisions]:
    """What every prompt's tokens chose, batch by batch of `plan` (prompt numbers)."""
    found: list[Decisions] = [{} for _ in encoded]
    device, options = input_device(model), forward_options(model)
    for numbers in plan:
        batch = collate([encoded[i] for i in numbers], pad_id=pad_id)
        inputs = {"input_ids": batch.input_ids_BS.to(device), "attention_mask": batch.mask_BS.to(device)}
        with record_routing(model) as routing:
            model(**inputs, **options)
        edges = np.cumsum([len(encoded[i]) for i in numbers])[:-1]
        for spec in routing.routers:
            if not routing.called(spec.layer, spec.stream):
                continue
            ids = routing.ids(spec.layer, spec.stream).cpu()[batch.keep_T].numpy()
            weights = routing.weights(spec.layer, spec.stream)
            kept = None if weights is None else weights.float().cpu()[batch.keep_T].numpy()
            parts = np.split(ids, edges)
            split = [None] * len(parts) if kept is None else np.split(kept, edges)
            for number, own_ids, own in zip(numbers, parts, split, strict=True):
                found[number][RouterKey(spec.stream, spec.layer)] = own_ids, own
    return found


def compared(
    cause: str, base: str, other: str, first: Sequence[Decisions], second: Sequence[Decisions]
) -> Variation:
    """How far two runs over the same prompts differ."""
    sums = np.array([_differences(a, b) for a, b in zip(first, second, strict=True)])
    events_P, sets_P = sums[:, 0], sums[:, 1]
    low = high = None
    if len(sums) >= FEWEST_UNITS and events_P.all():
        interval = interval_of_enough(sets_P / events_P, weights=events_P)
        low, high = float(interval.low), float(interval.high)
    events, sets, order, weights, changed = (int(total) for total in sums[:, :5].sum(0))
    return Variation(
        cause=cause, base=base, other=other, events=events, sets=sets, order=order, weights=weights,
        weights_changed=changed, largest_weight_change=float(sums[:, 5].max()), low=low, high=high,
    )  # fmt: skip


def _differences(a: Decisions, b: Decisions) -> np.ndarray:
    """Of one prompt: events, other sets, other orders, weights compared, weights stored otherwise, largest change."""
    total = np.zeros(6)
    for key in a.keys() & b.keys():
        (ids_a, weights_a), (ids_b, weights_b) = a[key], b[key]
        width = max(ids_a.shape[1], ids_b.shape[1])
        ids_a, ids_b = (
            np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=-1) for x in (ids_a, ids_b)
        )
        sets_T = (np.sort(ids_a, 1) != np.sort(ids_b, 1)).any(1)
        total[:3] += len(ids_a), sets_T.sum(), ((ids_a != ids_b).any(1) & ~sets_T).sum()
        if weights_a is None or weights_b is None:
            continue
        # Slot i of one run and slot j of the other hold the same expert.
        row, i, j = ((ids_a[:, :, None] == ids_b[:, None, :]) & (ids_a >= 0)[:, :, None]).nonzero()
        x, y = weights_a[row, i], weights_b[row, j]
        total[3:5] += len(x), (x.astype(np.float16) != y.astype(np.float16)).sum()
        total[5] = max(total[5], np.abs(x - y).max(initial=0.0))
    return total
