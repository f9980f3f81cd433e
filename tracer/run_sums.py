"""Router probabilities summed per segment while they are still on the device.

A segment is the tokens of one prompt that agree in phase, special and completion. The full probabilities are
E numbers a token and would be most of a trace; their sums are E numbers a prompt, and are what alignment
needs.

Shapes: G routers of one kind, N rows, E experts, R segments; row R takes what belongs to no segment
(padding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .scoring import router_probabilities

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


class SegmentSums:
    """Running sums of some routers over the segments of one batch."""

    def __init__(self, routers: int, segments: int, experts: int, device: torch.device) -> None:
        self.probability_GRE = torch.zeros(routers, segments + 1, experts, device=device)
        self.entropy_GR = torch.zeros(routers, segments + 1, device=device)
        self.nan_GR = torch.zeros(routers, segments + 1, dtype=torch.int32, device=device)

    def add(self, scores: Scores, segment_N: Tensor) -> None:
        """Add some tokens; `segment_N` says where, R for nowhere."""
        self.probability_GRE.index_add_(1, segment_N, scores.probability_GNE)
        self.entropy_GR.index_add_(1, segment_N, scores.entropy_GN)
        self.nan_GR.index_add_(1, segment_N, scores.nan_GN.int())
