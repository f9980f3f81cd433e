"""Taps on the routers of a model that runs inside vLLM. Nothing here imports vLLM.

A tap stands around a router's `_compute_routing`: logits in, gate weights and logical expert ids out, before load
balancing maps them to physical experts. It copies all three into buffers whose addresses never change, so that a
CUDA graph that was captured with the copies replays them. Before each step the ids are set to `UNSEEN`: a step
whose decision went past a tap (compiled or captured before the tap was there) is noticed, never guessed.

Shapes: L routers, N rows that a step may have, n rows that it has, K experts a token, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ....store.schema import RouterSpec
from .steer import StepSteering

UNSEEN = -2
"""Stands where no router has written; -1 is a slot that steering emptied."""
OwnRows = Callable[[int], slice]


def unseen(layers: Sequence[int]) -> str:
    """What is said where rows passed no tap."""
    return (
        f"layers {list(layers)}: a step's routing decisions were not recorded (it was compiled or captured before the "
        "hooks were attached); start vLLM with --engine-arg enforce_eager=true"
    )


def all_rows(count: int) -> slice:
    """Every row that a router saw belongs to this worker."""
    return slice(0, count)


class TapBuffers:
    """Where all routers of a model write what they decide in a step."""

    def __init__(self, specs: Sequence[RouterSpec], rows: int, device: torch.device | str) -> None:
        layers, experts = len(specs), max(spec.num_experts for spec in specs)
        slots = max(spec.top_k or 1 for spec in specs)
        self.specs = list(specs)
        self.rows = rows
        self.ids_LNK = torch.full((layers, rows, slots), UNSEEN, dtype=torch.int32, device=device)
        self.weights_LNK = torch.zeros((layers, rows, slots), dtype=torch.float32, device=device)
        self.logits_LNE = torch.full((layers, rows, experts), -torch.inf, dtype=torch.float32, device=device)
        self.kernel_ids_LNK = torch.full_like(self.ids_LNK, UNSEEN)
        self.kernel_weights_LNK = torch.zeros_like(self.weights_LNK)
        self.active = True
        """Whether taps do anything; what is captured in a CUDA graph meanwhile goes on doing it."""
        self.checking = False
        """Whether what the experts receive is kept too, for a comparison after the step."""
        self.steering: StepSteering | None = None
        """What edits this step's decisions."""

    def begin_step(self) -> None:
        """Forget the step before: what stays `UNSEEN` was not decided under a tap."""
        self.ids_LNK.fill_(UNSEEN)
        if self.checking:
            self.kernel_ids_LNK.fill_(UNSEEN)

    def unseen_layers(self, count: int) -> list[int]:
        """Layers in which some of the first `count` rows passed no tap."""
        missed_L = (self.ids_LNK[:, :count, 0] == UNSEEN).any(1).tolist()
        return [spec.layer for spec, missed in zip(self.specs, missed_L, strict=True) if missed]


class RouterTap:
    """The tap on one router.

    Args:
        number: which of the buffers' routers it is.
        own_rows: which of the rows that the router saw are this worker's own (data parallelism gathers all).
    """

    def __init__(self, buffers: TapBuffers, number: int, own_rows: OwnRows = all_rows) -> None:
        self.buffers = buffers
        self.number = number
        self.spec = buffers.specs[number]
        self._own_rows = own_rows

    def stand_on(self, router: Any, experts: Any = None) -> None:
        """Wrap a router's `_compute_routing`, and what calls the experts' kernel (`forward_modular`)."""
        compute = router._compute_routing
        router._compute_routing = lambda hidden, logits, *args, **kwargs: self._routed(
            compute, hidden, logits, *args, **kwargs
        )
        if experts is not None:
            forward = experts.forward_modular

            def forward_modular(*args: Any, **kwargs: Any) -> Any:
                self._received(kwargs["topk_ids"], kwargs["topk_weights"])
                return forward(*args, **kwargs)

            experts.forward_modular = forward_modular

    def _routed(
        self,
        compute: Callable[..., tuple[Tensor, Tensor]],
        hidden: Tensor,
        logits: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        if not self.buffers.active:
            return compute(hidden, logits, *args, **kwargs)
        steering, recorded = self.buffers.steering, None
        if steering is not None:
            logits = steering.edit_logits(self.number, self.spec, logits)
        weights, ids = compute(hidden, logits, *args, **kwargs)
        if steering is not None:
            weights, ids, recorded = steering.edit_selection(self.number, self.spec, weights, ids)
        self._keep(logits, ids if recorded is None else recorded, weights)
        return weights, ids

    def _keep(self, logits: Tensor, ids: Tensor, weights: Tensor) -> None:
        own, experts = self._rows_of(ids), self.spec.num_experts
        if logits.shape[1] < experts:  # one column would be copied to every expert's place
            raise RuntimeError(f"{self.spec.router}: {logits.shape[1]} logits for {experts} experts")
        count, slots = own.stop - own.start, ids.shape[1]
        buffers, at = self.buffers, self.number
        buffers.ids_LNK[at, :count, :slots].copy_(ids[own])
        buffers.weights_LNK[at, :count, :slots].copy_(weights[own])
        # Columns beyond E belong to shared experts whose gate vLLM has joined to the router's.
        buffers.logits_LNE[at, :count, :experts].copy_(logits[own, :experts])

    def _received(self, ids: Tensor, weights: Tensor) -> None:
        if not (self.buffers.checking or _is_captured(ids)):
            return
        own = self._rows_of(ids)
        count, slots = own.stop - own.start, ids.shape[1]
        self.buffers.kernel_ids_LNK[self.number, :count, :slots].copy_(ids[own])
        self.buffers.kernel_weights_LNK[self.number, :count, :slots].copy_(weights[own])

    def _rows_of(self, ids: Tensor) -> slice:
        own = all_rows(ids.shape[0]) if torch.compiler.is_compiling() else self._own_rows(ids.shape[0])
        return slice(own.start, min(own.stop, own.start + self.buffers.rows))


def _is_captured(values: Tensor) -> bool:
    """Whether what happens now will be replayed without Python running."""
    return torch.compiler.is_compiling() or (values.is_cuda and torch.cuda.is_current_stream_capturing())


def to_host(values: Tensor) -> Tensor:
    """A copy on the host that nothing waits for: from a GPU it is whole only after an event recorded behind it."""
    if values.device.type != "cuda":
        return values.detach().to("cpu", copy=True)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)
