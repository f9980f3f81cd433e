"""The sink of a trace: takes the routing of one batch, forward pass by forward pass, off the model's device.

1. A forward pass over whole prompts: each router's ids, weights and sums go into the arena at once.
2. A decode step: the tiny tensors of all routers are kept until the step is over, then stacked and stored
   together, because two copies a layer would cost more than the step.
3. After the batch the arena goes to the host in one copy, which only the writer waits for.

Shapes: G routers stored together, N rows, T real tokens, B sequences, K experts per token, E experts, R
segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..store.schema import RouterSpec
from .batches import Batch
from .errors import CaptureError
from .outputs import OUTPUTS
from .run_arena import Slot
from .run_captured import CapturedBatch, Key, Stored, prompt_segments
from .run_shelf import Shelf
from .run_sums import Bags, RunningSums, Sums, score

Routed = tuple[RouterSpec, Tensor, Tensor | None, Tensor | None]
PutOut = tuple[Tensor | None, Tensor | None]

UNSEEN = (
    "a forward pass called no router: a compiled or CUDA-graphed model replays its kernels past all hooks; load it "
    "without torch.compile and torch.cuda.make_graphed_callables, and generate with disable_compile=True"
)
EXTRAS = ("probability", "entropy", "logits", *OUTPUTS)


class Capture:
    """Sink for `record.attach`; one batch at a time.

    Args:
        routers: every router that will report.
        capture: of `CAPTURES`: which extras to keep beside ids and weights.
        weight_type: `float16` or `float32`, for gate weights.
        special_ids: token ids that are special wherever they stand.
        stop_ids: token ids that end a generated sequence.
    """

    def __init__(
        self,
        routers: Sequence[RouterSpec],
        capture: Sequence[str] = ("ids", "weights"),
        *,
        weight_type: str = "float16",
        special_ids: np.ndarray | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self.routers = list(routers)
        self._keys = {(spec.layer, spec.stream) for spec in self.routers}
        self._capture = set(capture)
        self._special_ids = torch.as_tensor(special_ids if special_ids is not None else [], dtype=torch.int64)
        self._stop_ids = torch.as_tensor(list(stop_ids), dtype=torch.int64)
        self._ids_on: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._shelf = Shelf(capture, torch.float16 if weight_type == "float16" else torch.float32)
        self._batch: Batch | None = None

    @property
    def recording(self) -> bool:
        """Whether what the model does belongs to the batch, and not to the scoring of choices."""
        return self._batch is not None

    @torch.inference_mode()
    def begin(self, batch: Batch) -> None:
        """Make ready for a batch; whatever an earlier, failed one left is forgotten."""
        self._batch = batch
        self._called: dict[Key, Routed] = {}
        self._outputs: dict[Key, PutOut] = {}
        self._prefill: list[Stored] = []
        self._steps: list[list[Stored]] = []
        self._sums: list[tuple[list[RouterSpec], Sums]] = []
        self._step_sums: dict[tuple[Key, ...], tuple[list[RouterSpec], RunningSums]] = {}
        self._alive: list[Slot] = []
        self._fed: list[Slot] = []
        self._special: list[Slot] = []
        self._running: Tensor | None = None
        self._rows: dict[torch.device, tuple[Tensor, Bags]] = {}
        self._shelf.clear()

    def routed(
        self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None
    ) -> None:
        key = (spec.layer, spec.stream)
        if self._batch is None or key not in self._keys:
            return
        if key in self._called:
            raise CaptureError(
                f"{spec.router} was called twice in one forward pass; its rows can't be told apart"
            )
        self._called[key] = (spec, expert_ids_TK, weights_TK, logits_TE)
        if self._running is None:
            self._store_prompt(self._called[key])
            self._called[key] = (spec, expert_ids_TK, None, None)

    def put_out(self, spec: RouterSpec, norms_TK: Tensor | None, similarity_T: Tensor | None) -> None:
        """What the experts of the last decision put out, for the captures of `OUTPUTS`."""
        key = (spec.layer, spec.stream)
        if self._batch is None or key not in self._called:
            return
        self._outputs[key] = (norms_TK, similarity_T)
        if self._running is None:
            stored = next(stored for stored in self._prefill if stored.routers == [spec])
            keep_T, _ = self._rows_on(stored.device)
            values = [None if value is None else value.unsqueeze(0) for value in self._outputs[key]]
            self._shelf.store_outputs(stored, values, keep_T)
            self._outputs[key] = (None, None)

    def end_prefill(self) -> None:
        """The forward pass over the prompts is over.

        Raises:
            CaptureError: a router did not report.
        """
        self._check_all_called()
        assert self._batch is not None
        self._called.clear()
        self._outputs.clear()
        self._running = torch.ones(len(self._batch), dtype=torch.bool)

    def end_step(self, fed_B: Tensor) -> None:
        """A decode step is over; `fed_B` are the tokens that it fed."""
        self._check_all_called()
        assert self._running is not None
        if self._running.device != fed_B.device:
            self._running = self._running.to(fed_B.device)
        stop_ids, special_ids = self._known_ids(fed_B.device)
        self._running = self._running & torch.isin(fed_B, stop_ids, invert=True)
        arena = self._shelf.arena(fed_B.device)
        self._alive.append(arena.put(self._running.unsqueeze(0), torch.bool))
        self._fed.append(arena.put(fed_B.unsqueeze(0), torch.int32))
        special_B = torch.isin(fed_B, special_ids)
        self._special.append(arena.put(special_B.unsqueeze(0), torch.bool))
        nowhere = 2 * len(fed_B)
        sequence_B = torch.arange(len(fed_B), device=fed_B.device)
        segment_B = torch.where(self._running, 2 * sequence_B + special_B, nowhere)
        self._steps.append([self._store_step(group, segment_B) for group in _alike(self._called.values())])
        self._called.clear()
        self._outputs.clear()

    @torch.inference_mode()
    def take(self) -> CapturedBatch:
        """Everything recorded since `begin`, on its way to the host."""
        assert self._batch is not None
        batch, self._batch = self._batch, None
        sums = [self._shelf.store_sums("prefill", *of_prompts) for of_prompts in self._sums]
        for specs, running in self._step_sums.values():
            sums.append(self._shelf.store_sums("decode", specs, running.sums))
        home = self._running.device if self._running is not None else torch.device("cpu")
        hosts = self._shelf.to_hosts()
        steps = (self._alive, self._fed, self._special)
        return CapturedBatch(batch, self._prefill, self._steps, sums, hosts, *steps, home)

    def _known_ids(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Stop and special ids there, moved once: each move would wait for the device."""
        if device not in self._ids_on:
            self._ids_on[device] = (_moved(self._stop_ids, device), _moved(self._special_ids, device))
        return self._ids_on[device]

    def _check_all_called(self) -> None:
        if self.routers and not self._called:
            raise CaptureError(UNSEEN)
        for spec in self.routers:
            if (spec.layer, spec.stream) not in self._called:
                raise CaptureError(
                    f"{spec.experts or spec.router} took no routing decision in a forward pass"
                )
            if self._capture & set(OUTPUTS) and (spec.layer, spec.stream) not in self._outputs:
                raise CaptureError(f"{spec.experts} did not run after a routing decision")

    def _store_prompt(self, routed: Routed) -> None:
        spec, ids_TK, weights_TK, logits_TE = routed
        assert self._batch is not None
        if len(ids_TK) != (tokens := self._batch.input_ids_BS.numel()):
            raise CaptureError(
                f"{spec.router} decided about {len(ids_TK)} rows in a batch of {tokens} tokens; "
                "which row is which token is not known"
            )
        keep_T, bags = self._rows_on(ids_TK.device)
        scores = None
        if logits_TE is not None and (scores := score(logits_TE.unsqueeze(0), spec.scoring)) is not None:
            self._sums.append(([spec], bags.sums(scores)))
        weights_GNK = None if weights_TK is None else weights_TK.unsqueeze(0)
        logits_GNE = None if logits_TE is None else logits_TE.unsqueeze(0)
        self._prefill.append(
            self._shelf.store([spec], ids_TK.unsqueeze(0), weights_GNK, logits_GNE, scores, keep_T)
        )

    def _store_step(self, group: list[Routed], segment_B: Tensor) -> Stored:
        specs = [routed[0] for routed in group]
        ids_GBK, weights_GBK, logits_GBE = (_stacked([routed[i] for routed in group]) for i in (1, 2, 3))
        assert ids_GBK is not None
        if ids_GBK.shape[1] != len(segment_B):
            raise CaptureError(
                f"{specs[0].router} decided about {ids_GBK.shape[1]} rows in a step of {len(segment_B)}"
            )
        scores = None if logits_GBE is None else score(logits_GBE, specs[0].scoring)
        if scores is not None:
            keys = tuple((spec.layer, spec.stream) for spec in specs)
            if keys not in self._step_sums:
                shape = (len(specs), 2 * len(segment_B), scores.probability_GNE.shape[-1])
                self._step_sums[keys] = specs, RunningSums(*shape, ids_GBK.device)
            self._step_sums[keys][1].add(scores, segment_B.to(ids_GBK.device))
        stored = self._shelf.store(specs, ids_GBK, weights_GBK, logits_GBE, scores, None)
        if self._outputs:
            outputs = [self._outputs[spec.layer, spec.stream] for spec in specs]
            self._shelf.store_outputs(
                stored, [_stacked([output[i] for output in outputs]) for i in (0, 1)], None
            )
        return stored

    def _rows_on(self, device: torch.device) -> tuple[Tensor, Bags]:
        """Rows of real tokens, and which of them each segment has, for this batch on one device."""
        if device not in self._rows:
            assert self._batch is not None
            _, segment_T = prompt_segments(self._batch)
            bags = Bags.of(self._batch.keep_T, segment_T)
            move = partial(_moved, device=device)
            self._rows[device] = move(self._batch.keep_T), bags.to(move)
        return self._rows[device]


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


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
