"""Router probabilities summed per segment while they are still on the device.

A segment is the tokens of one prompt that agree in phase, special and completion. The full probabilities are
E numbers a token and would be most of a trace; their sums are E numbers a prompt, and are what alignment
needs.

Shapes: G routers of one kind, N rows, T rows of real tokens, E experts, R segments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..routers.scoring import router_probabilities

_SUM_TO_ONE = ("softmax", "softmax_topk")


@dataclass(frozen=True)
class Scores:
    """What follows from the router logits of some tokens; everything float32."""

    probability_GNE: Tensor
    """By the model's scoring function; 0 for a token with NaN."""
    entropy_GN: Tensor
    """Shannon entropy in nats (of the probabilities scaled to sum 1); 0 for a token with NaN."""
    nan_GN: Tensor
    """bool: the token's logits hold a NaN."""


def score(logits_GNE: Tensor, scoring: str) -> Scores | None:
    """Probabilities and entropies; None where the scoring function is not known."""
    # An expert that steering switched off has the logit -inf; 0 * -inf would look like a NaN of the model.
    z_GNE = logits_GNE.float().clamp_min(torch.finfo(torch.float32).min / 2)
    p_GNE = router_probabilities(z_GNE, scoring)
    if p_GNE is None:
        return None
    if scoring in _SUM_TO_ONE:
        log_total_GN = z_GNE.amax(-1) - p_GNE.amax(-1).log()
        entropy_GN = log_total_GN - torch.linalg.vecdot(p_GNE, z_GNE)
    else:
        total_GN = p_GNE.sum(-1)
        entropy_GN = torch.special.entr(p_GNE).sum(-1) / total_GN + total_GN.log()
        entropy_GN = torch.where(total_GN == 0, 0.0, entropy_GN)
    nan_GN = entropy_GN.isnan()
    if nan_GN.device.type != "cpu" or nan_GN.any():  # asking a GPU would wait for it
        p_GNE = p_GNE.masked_fill(nan_GN.unsqueeze(-1), 0.0)
        entropy_GN = entropy_GN.masked_fill(nan_GN, 0.0)
    return Scores(p_GNE, entropy_GN.clamp_min(0.0), nan_GN)


@dataclass(frozen=True)
class Sums:
    """Sums of G routers over R segments: probabilities (G, R, E), entropies and tokens with NaN (G, R)."""

    probability_GRE: Tensor
    entropy_GR: Tensor
    nan_GR: Tensor


@dataclass(frozen=True)
class SegmentRows:
    """Which rows each segment of a forward pass over prompts has; padding is in none."""

    rows_T: Tensor
    """Row numbers, sorted by segment."""
    first_R: Tensor
    """Where each segment begins in them."""

    @classmethod
    def of(cls, rows_T: Tensor, segment_T: np.ndarray) -> SegmentRows:
        """From the segment of each row; every segment from 0 to the largest has rows."""
        order_T = np.argsort(segment_T, kind="stable")
        first_R = np.searchsorted(segment_T[order_T], np.arange(int(segment_T.max()) + 1))
        return cls(rows_T[torch.from_numpy(order_T)], torch.from_numpy(first_R))

    def to(self, move: Callable[[Tensor], Tensor]) -> SegmentRows:
        return SegmentRows(move(self.rows_T), move(self.first_R))

    def sums(self, scores: Scores) -> Sums:
        """Sums of one router (G = 1), in the order of the rows."""
        # The same sums as index_add_, forty times faster on a CPU and in a fixed order on a GPU.
        # Each weight is contiguous, as others are summed row by row.
        bag = partial(embedding_bag, self.rows_T, offsets=self.first_R, mode="sum")
        entropy_R1, nan_R1 = (
            bag(weight=values_GN.squeeze(0).float().unsqueeze(1))
            for values_GN in (scores.entropy_GN, scores.nan_GN)
        )
        return Sums(bag(weight=scores.probability_GNE.squeeze(0)).unsqueeze(0), entropy_R1.T, nan_R1.T)


class RunningSums:
    """Sums of some routers over the segments of one batch, decode step after decode step."""

    def __init__(self, routers: int, segments: int, experts: int, device: torch.device) -> None:
        self._probability_GRE = torch.zeros(routers, segments + 1, experts, device=device)
        self._entropy_GR = torch.zeros(routers, segments + 1, device=device)
        self._nan_GR = torch.zeros(routers, segments + 1, dtype=torch.int32, device=device)

    def add(self, scores: Scores, segment_N: Tensor) -> None:
        """Add some tokens; `segment_N` says where, R for nowhere."""
        self._probability_GRE.index_add_(1, segment_N, scores.probability_GNE)
        self._entropy_GR.index_add_(1, segment_N, scores.entropy_GN)
        self._nan_GR.index_add_(1, segment_N, scores.nan_GN.int())

    @property
    def sums(self) -> Sums:
        return Sums(self._probability_GRE[:, :-1], self._entropy_GR[:, :-1], self._nan_GR[:, :-1])
