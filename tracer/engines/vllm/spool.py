"""Rows of finished requests, from the steps of a worker to files. Nothing here imports vLLM.

A step's rows go to the host as they are. A thread sorts them by request and position, keeps the last computation of a
position that came twice (a preempted request is computed again, a rejected draft is overwritten), sums what a
trace keeps by prompt, and writes the rows of finished requests to one file. A file appears whole or not at all.

Shapes: N rows, L routers, K slots, E experts, R segments.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....store.schema import RouterSpec
from ...routers.passages import by_weight
from ...run.segment_sums import score
from .taps import UNSEEN, unseen

SEGMENT_CLASSES = 8
"""Of a token: special + 2 · completion + 4 · generated."""
_AT_ONCE = 4096
"""Rows whose probabilities are held at once while they are summed."""


@dataclass
class Rows:
    """Rows of several requests on the host."""

    request_N: np.ndarray
    """int64: number of the request."""
    position_N: Tensor
    token_N: Tensor
    """-1 where the engine was fed embeddings."""
    ids_NLK: Tensor
    weights_NLK: Tensor
    logits_NLE: Tensor

    def picked(self, rows: np.ndarray) -> Rows:
        at = torch.from_numpy(rows)
        tensors = (getattr(self, name)[at] for name in TENSORS)
        return Rows(self.request_N[rows], *tensors)


TENSORS = ("position_N", "token_N", "ids_NLK", "weights_NLK", "logits_NLE")


@dataclass(frozen=True)
class StepRows:
    """A step's rows on their way from the device."""

    request_N: np.ndarray
    position_N: Tensor
    token_N: Tensor
    ids_LNK: Tensor
    weights_LNK: Tensor
    logits_LNE: Tensor
    ready: Any = None
    """A CUDA event after which the copies are whole; None where they are."""

    def arrived(self, scale_L11: Tensor) -> Rows:
        """Wait for the copies, and let the executed gate weights be what they are after their layer's scale."""
        if self.ready is not None:
            self.ready.synchronize()
        by_row = [self.ids_LNK, self.weights_LNK * scale_L11, self.logits_LNE]
        return Rows(self.request_N, self.position_N, self.token_N, *(x.transpose(0, 1) for x in by_row))


@dataclass(frozen=True)
class Order:
    """Requests that are finished, and the file that their rows go to."""

    path: Path
    classes: dict[int, np.ndarray]
    """By request the class of each of its tokens; rows beyond them were never part of the answer."""


@dataclass
class Spool:
    """Collects rows and writes files in a thread of its own.

    Args:
        specs: the routers.
        capture: what a file holds beside ids, weights and sums.
        scales: by router, what its experts' sum is multiplied by afterwards: a part of the executed gate weight.
    """

    specs: Sequence[RouterSpec]
    capture: Sequence[str]
    scales: Sequence[float]
    recomputed: int = 0
    """Positions that were computed more than once, of the requests written so far."""
    _queue: queue.Queue[StepRows | Order | None] = field(default_factory=queue.Queue)
    _waiting: list[Rows] = field(default_factory=list)
    _written: set[int] = field(default_factory=set)
    _error: BaseException | None = None

    def __post_init__(self) -> None:
        self._scale_L11 = torch.tensor(self.scales, dtype=torch.float32).reshape(-1, 1, 1)
        self._thread = threading.Thread(target=self._run, name="moescope-spool", daemon=True)
        self._thread.start()

    def add(self, rows: StepRows | Order) -> None:
        """Hand over a step's rows, or an order. Raises what went wrong in the thread before."""
        if self._error is not None:
            raise RuntimeError(f"routing could not be kept: {self._error}") from self._error
        self._queue.put(rows)

    @property
    def failure(self) -> BaseException | None:
        """What went wrong in the thread."""
        return self._error

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(60)

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, StepRows):
                    self._waiting.append(self._checked(item.arrived(self._scale_L11)))
                else:
                    self._write(item)
        except BaseException as error:  # noqa: BLE001 - raised where the next rows are handed over
            self._error = error

    def _checked(self, rows: Rows) -> Rows:
        missed_L = (rows.ids_NLK[..., 0] == UNSEEN).any(0)  # routers may have fewer slots than others
        if missed_L.any():
            raise RuntimeError(unseen([self.specs[at].layer for at in missed_L.nonzero().flatten().tolist()]))
        return rows

    def _write(self, order: Order) -> None:
        self._written |= order.classes.keys()
        if not self._waiting:
            return _put(order.path, {"request": np.zeros(0, np.int64)})
        rows = _joined(self._waiting)
        done_N = np.isin(rows.request_N, list(order.classes))
        # A step that was planned before its request ended can still run after it.
        late_N = (rows.request_N < 0) | np.isin(rows.request_N, list(self._written))
        self._waiting = [rows.picked(np.flatnonzero(~late_N))]
        rows, again = _last_of_each(rows.picked(np.flatnonzero(done_N)), order.classes)
        self.recomputed += again
        rows.ids_NLK, rows.weights_NLK = _sorted(rows.ids_NLK, rows.weights_NLK)
        arrays: dict[str, Any] = {
            "request": rows.request_N, "position": rows.position_N.numpy(), "token": rows.token_N.numpy(),
            "recomputed": np.array([again]), "ids": rows.ids_NLK.numpy(), "weights": rows.weights_NLK.numpy(),
        }  # fmt: skip
        arrays |= _sums(self.specs, rows, order.classes, self.capture)
        _put(order.path, arrays)


def put_problem(path: Path, problem: str) -> None:
    """A file that says why there are no rows."""
    _put(path, {"problem": np.array([problem])})


def _put(path: Path, arrays: dict[str, Any]) -> None:
    part = path.with_suffix(".tmp")
    with open(part, "wb") as file:
        np.savez(file, **arrays)
    os.replace(part, path)


def _joined(rows: list[Rows]) -> Rows:
    tensors = (torch.cat([getattr(one, name) for one in rows]) for name in TENSORS)
    return Rows(np.concatenate([one.request_N for one in rows]), *tensors)


def _last_of_each(rows: Rows, classes: dict[int, np.ndarray]) -> tuple[Rows, int]:
    """Rows sorted by (request, position), the last computation of each; and how many others there were."""
    length = {request: len(class_T) for request, class_T in classes.items()}
    # A preempted request or a rejected draft computes a position again, and may go past the end of the answer.
    position_N = rows.position_N.numpy()
    inside_N = position_N < np.array([length[int(request)] for request in rows.request_N], np.int64)
    # Sorted by (request, position, time of computation), (N,): the last row of each run of equal keys (2, N) is kept.
    order = np.lexsort((np.arange(len(inside_N)), position_N, rows.request_N))
    order = order[inside_N[order]]
    key = np.stack([rows.request_N[order], position_N[order]])
    last = np.r_[(key[:, 1:] != key[:, :-1]).any(0), np.ones(min(1, len(order)), bool)]
    return rows.picked(order[last]), int((~last).sum())


def _sorted(ids_NLK: Tensor, weights_NLK: Tensor) -> tuple[Tensor, Tensor]:
    ids, weights = by_weight(ids_NLK.flatten(0, 1), weights_NLK.flatten(0, 1))
    assert weights is not None
    return ids.reshape(ids_NLK.shape), weights.reshape(weights_NLK.shape)


def _sums(
    specs: Sequence[RouterSpec], rows: Rows, classes: dict[int, np.ndarray], capture: Sequence[str]
) -> dict[str, np.ndarray]:
    """Sums by (request, class of tokens), and the captures that follow from the logits, by name."""
    class_N = np.zeros(len(rows.request_N), np.int64)
    for request, class_T in classes.items():
        own = rows.request_N == request
        class_N[own] = class_T[rows.position_N.numpy()[own]]
    code_R, segment_N = np.unique(rows.request_N * SEGMENT_CLASSES + class_N, return_inverse=True)
    found = {"segments": code_R}
    for number, spec in enumerate(specs):
        logits_NE = rows.logits_NLE[:, number, : spec.num_experts]
        found |= _router_sums(
            number, spec, logits_NE, rows.ids_NLK[:, number], segment_N, len(code_R), capture
        )
    return found


def _router_sums(
    number: int, spec: RouterSpec, logits_NE: Tensor, ids_NK: Tensor, segment_N: np.ndarray, segments: int,
    capture: Sequence[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    segment = torch.from_numpy(segment_N.reshape(-1))
    sum_RE, entropy_R = torch.zeros(segments, spec.num_experts), torch.zeros(segments, dtype=torch.float64)
    nan_R = torch.zeros(segments, dtype=torch.int64)
    extras: dict[str, list[Tensor]] = {"entropy": [], "probability": []}
    for start in range(0, len(logits_NE), _AT_ONCE):
        piece, own = slice(start, start + _AT_ONCE), segment[start : start + _AT_ONCE]
        scores = score(logits_NE[piece].unsqueeze(0), spec.scoring)
        if scores is None:
            return {}
        p_NE, entropy_N = scores.probability_GNE[0], scores.entropy_GN[0]
        sum_RE.index_add_(0, own, p_NE)
        entropy_R.index_add_(0, own, entropy_N.double())
        nan_R.index_add_(0, own, scores.nan_GN[0].long())
        nan_N, chosen_NK = scores.nan_GN[0], p_NE.gather(-1, ids_NK[piece].long().clamp(min=0))
        extras["entropy"].append(entropy_N.masked_fill(nan_N, torch.nan))
        extras["probability"].append(chosen_NK.masked_fill(nan_N.unsqueeze(-1), torch.nan))
    found = {"probability_sum": sum_RE, "entropy_sum": entropy_R, "nan_tokens": nan_R}
    found |= {name: torch.cat(values) for name, values in extras.items() if name in capture and values}
    if "logits" in capture:
        found["logits"] = logits_NE
    return {f"{number}/{name}": values.numpy() for name, values in found.items()}
