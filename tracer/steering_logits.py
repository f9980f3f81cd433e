"""What rules do to the logits of a router, before it chooses.

Shapes: T token rows, E experts. A mask has shape (1, E) where it holds for all rows, else (T, E).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .steering_rules import Rule


@dataclass
class LogitState:
    """Logits on their way through the rules, and what must hold of the choice whatever the router makes of
    them: an expert that is masked is never chosen, one that is forced always."""

    logits_TE: Tensor
    masked: Tensor
    forced: Tensor

    @classmethod
    def of(cls, logits_TE: Tensor) -> LogitState:
        none = torch.zeros(1, logits_TE.shape[-1], dtype=torch.bool, device=logits_TE.device)
        return cls(logits_TE, none, none)

    def apply(self, rule: Rule, layer: int, rows_T: Tensor | None) -> None:
        """One rule on all rows, or on those where `rows_T` (T,) is true."""
        experts_E = experts_mask(rule, self.logits_TE)
        logits_TE, masked, forced = self._changed(rule, layer, experts_E)
        if rows_T is None:
            self.logits_TE, self.masked, self.forced = logits_TE, masked, forced
            return
        rows_T1 = rows_T.unsqueeze(-1)
        self.logits_TE = torch.where(rows_T1, logits_TE, self.logits_TE)
        self.masked = torch.where(rows_T1, masked, self.masked)
        self.forced = torch.where(rows_T1, forced, self.forced)

    def _changed(self, rule: Rule, layer: int, experts_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_TE, masked, forced = self.logits_TE, self.masked, self.forced
        amount = rule.amount_in(layer)
        match rule.rule:
            case "off":
                return z_TE.masked_fill(experts_E, -torch.inf), masked | experts_E, forced & ~experts_E
            case "keep_only":
                return z_TE.masked_fill(~experts_E, -torch.inf), masked | ~experts_E, forced & experts_E
            case "on":
                assert amount is not None
                top_T1 = z_TE.masked_fill(masked, -torch.inf).amax(-1, keepdim=True) + amount
                return torch.where(experts_E, top_T1, z_TE), masked & ~experts_E, forced | experts_E
            case "low":
                low_T1 = z_TE.masked_fill(masked, torch.inf).amin(-1, keepdim=True)
                return torch.where(experts_E & ~masked, low_T1, z_TE), masked, forced
            case "bias":
                assert amount is not None
                step = amount if rule.options["absolute"] else amount * self._std().to(z_TE.dtype)
                return torch.where(experts_E, z_TE + step, z_TE), masked, forced
            case "temperature":
                assert amount is not None
                return z_TE / amount, masked, forced
            case "vector":
                return z_TE + vector_for(rule, layer, z_TE), masked, forced
        raise AssertionError(rule.rule)

    def _std(self) -> Tensor:
        """Population standard deviation (T, 1), float32, of each row's logits, masked experts left out."""
        z_TE = self.logits_TE.float()
        count = (~self.masked).sum(-1, keepdim=True)
        mean_T1 = z_TE.masked_fill(self.masked, 0).sum(-1, keepdim=True) / count
        return ((z_TE - mean_T1).masked_fill(self.masked, 0).square().sum(-1, keepdim=True) / count).sqrt()


def experts_mask(rule: Rule, like: Tensor) -> Tensor:
    """(E,) bool: the experts that a rule names, E the last dimension of `like`."""
    return _mask(rule.experts, like.shape[-1], like.device)


@lru_cache(maxsize=4096)
def _mask(experts: tuple[int, ...] | None, width: int, device: torch.device) -> Tensor:
    # A tensor made in inference mode could not take part in a later backward pass.
    with torch.inference_mode(False):
        mask = torch.zeros(width, dtype=torch.bool)
        mask[list(range(width) if experts is None else experts)] = True
        return mask.to(device)


def vector_for(rule: Rule, layer: int, logits_TE: Tensor) -> Tensor:
    """The rule's vector (E,) for a layer, in the dtype and on the device of the logits."""
    vector = rule.vector_in(layer)
    if isinstance(vector, Tensor):
        return vector.to(logits_TE)
    return torch.tensor(vector, dtype=logits_TE.dtype, device=logits_TE.device)
