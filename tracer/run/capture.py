"""The sink of a trace: takes the routing of one batch, forward pass by forward pass, off the model's device.

1. A forward pass over whole prompts: each router's ids, weights and sums go into the arena at once.
2. A decode step: the tensors of all routers are kept until the step is over, then stored together (`decode_steps`).
3. After the batch the arena goes to the host in one copy, which only the writer waits for.

Shapes: T token rows, B sequences, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...store.schema import RouterKey, RouterSpec
from ..errors import CaptureError
from ..hooks.outputs import OUTPUTS
from ..tokens.batches import Batch
from .captured_batch import CapturedBatch, Stored, prompt_segments
from .decode_steps import DecodeSteps, ExpertOutputs, Routed, moved
from .device_buffers import DeviceBuffers
from .segment_sums import SegmentRows, Sums, score

UNSEEN = (
    "a forward pass called no router: a compiled or CUDA-graphed model replays its kernels past all hooks; load it "
    "without torch.compile and torch.cuda.make_graphed_callables, and generate with disable_compile=True"
)
EXTRAS = ("probability", "entropy", "logits", *OUTPUTS)


class StopForward(Exception):
    """Ends a forward pass whose last router has decided: what follows changes no routing."""


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
        self._keys = {spec.key for spec in self.routers}
        self._capture = set(capture)
        self._buffers = DeviceBuffers(capture, torch.float16 if weight_type == "float16" else torch.float32)
        self._steps = DecodeSteps(self._buffers, special_ids, stop_ids)
        self._batch: Batch | None = None
        self.ends_pass = False
        """Whether a pass over prompts ends by `StopForward` once every router has decided."""

    @property
    def recording(self) -> bool:
        """Whether what the model does belongs to the batch, and not to the scoring of choices."""
        return self._batch is not None

    @torch.inference_mode()
    def begin(self, batch: Batch) -> None:
        """Make ready for a batch; whatever an earlier, failed one left is forgotten."""
        self._batch = batch
        self._called: dict[RouterKey, Routed] = {}
        self._outputs: dict[RouterKey, ExpertOutputs] = {}
        self._prefill: list[Stored] = []
        self._sums: list[tuple[list[RouterSpec], Sums]] = []
        self._steps.clear()
        self._rows: dict[torch.device, tuple[Tensor, SegmentRows]] = {}
        self._buffers.clear()

    def routed(
        self, spec: RouterSpec, expert_ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None
    ) -> None:
        key = spec.key
        if self._batch is None or key not in self._keys:
            return
        if key in self._called:
            raise CaptureError(
                f"{spec.router} was called twice in one forward pass; its rows can't be told apart"
            )
        self._called[key] = (spec, expert_ids_TK, weights_TK, logits_TE)
        # A prompt's decisions are copied at once, so that the model's own tensors can go; a decode step waits for
        # `end_step`, which says what it fed.
        if self._steps.running is None:
            self._store_prompt(self._called[key])
            self._called[key] = (spec, expert_ids_TK, None, None)
            if self.ends_pass and len(self._called) == len(self._keys) and not self._capture & set(OUTPUTS):
                raise StopForward

    def put_out(self, spec: RouterSpec, norms_TK: Tensor | None, similarity_T: Tensor | None) -> None:
        """What the experts of the last decision put out, for the captures of `OUTPUTS`."""
        key = spec.key
        if self._batch is None or key not in self._called:
            return
        self._outputs[key] = (norms_TK, similarity_T)
        if self._steps.running is None:
            stored = next(stored for stored in self._prefill if stored.routers == [spec])
            keep_T, _ = self._rows_on(stored.device)
            values = [None if value is None else value.unsqueeze(0) for value in self._outputs[key]]
            self._buffers.store_outputs(stored, values, keep_T)
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
        self._steps.begin(len(self._batch))

    def end_step(self, fed_B: Tensor) -> None:
        """A decode step is over; `fed_B` are the tokens that it fed."""
        self._check_all_called()
        self._steps.add(fed_B, self._called.values(), self._outputs)
        self._called.clear()
        self._outputs.clear()

    @torch.inference_mode()
    def take(self) -> CapturedBatch:
        """Everything recorded since `begin`, on its way to the host."""
        assert self._batch is not None
        batch, self._batch = self._batch, None
        sums = [self._buffers.store_sums("prefill", *of_prompts) for of_prompts in self._sums]
        sums += [self._buffers.store_sums("decode", *of_steps) for of_steps in self._steps.sums()]
        hosts, steps = self._buffers.to_hosts(), self._steps
        return CapturedBatch(
            batch, self._prefill, steps.stored, sums, hosts, steps.alive, steps.fed, steps.special, steps.home
        )

    def _check_all_called(self) -> None:
        if self.routers and not self._called:
            raise CaptureError(UNSEEN)
        for spec in self.routers:
            if spec.key not in self._called:
                raise CaptureError(
                    f"{spec.experts or spec.router} took no routing decision in a forward pass"
                )
            if self._capture & set(OUTPUTS) and spec.key not in self._outputs:
                raise CaptureError(f"{spec.experts} did not run after a routing decision")

    def _store_prompt(self, routed: Routed) -> None:
        spec, ids_TK, weights_TK, logits_TE = routed
        assert self._batch is not None
        if len(ids_TK) != (tokens := self._batch.input_ids_BS.numel()):
            raise CaptureError(
                f"{spec.router} decided about {len(ids_TK)} rows in a batch of {tokens} tokens; "
                "so rows can't be assigned to tokens"
            )
        keep_T, segments = self._rows_on(ids_TK.device)
        scores = None
        if logits_TE is not None and (scores := score(logits_TE.unsqueeze(0), spec.scoring)) is not None:
            self._sums.append(([spec], segments.sums(scores)))
        weights_GNK = None if weights_TK is None else weights_TK.unsqueeze(0)
        logits_GNE = None if logits_TE is None else logits_TE.unsqueeze(0)
        self._prefill.append(
            self._buffers.store([spec], ids_TK.unsqueeze(0), weights_GNK, logits_GNE, scores, keep_T)
        )

    def _rows_on(self, device: torch.device) -> tuple[Tensor, SegmentRows]:
        """Rows of real tokens, and which of them each segment has, for this batch on one device."""
        if device not in self._rows:
            assert self._batch is not None
            _, segment_T = prompt_segments(self._batch)
            segments = SegmentRows.of(self._batch.keep_T, segment_T)
            move = partial(moved, device=device)
            self._rows[device] = move(self._batch.keep_T), segments.to(move)
        return self._rows[device]
