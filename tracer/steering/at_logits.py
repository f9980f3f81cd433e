"""What rules do to the logits of a router, before it chooses.

Shapes: T token rows, E experts. A mask has shape (1, E) where it holds for all rows, else (T, E); None is a mask
of no expert, which costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .rows import Rows
from .rules import Rule


@dataclass
class LogitState:
    """Logits on their way through the rules, and what must hold of the choice whatever the router makes of
    them: an expert that is masked is never chosen, one that is forced always."""

    logits_TE: Tensor
    masked: Tensor | None = None
    forced: Tensor | None = None

    def apply(self, rule: Rule, layer: int, rows: Rows = True) -> None:
        """One rule on the rows that `rows` names."""
        if rows is False:
            return
        logits_TE, masked, forced = self._changed(rule, layer)
        if isinstance(rows, Tensor):
            rows_T1 = rows.unsqueeze(-1)
            logits_TE = torch.where(rows_T1, logits_TE, self.logits_TE)
            masked = _in_rows(rows_T1, masked, self.masked)
            forced = _in_rows(rows_T1, forced, self.forced)
        self.logits_TE, self.masked, self.forced = logits_TE, masked, forced

    def _changed(self, rule: Rule, layer: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        z_TE, masked, forced = self.logits_TE, self.masked, self.forced
        experts = experts_mask(rule.experts, z_TE.shape[-1], z_TE.device)
        amount = rule.amount_in(layer)
        match rule.rule:
            case "off":
                return _filled(z_TE, experts, -torch.inf), _with(masked, experts), _without(forced, experts)
            case "keep_only":
                others = ~experts
                return _filled(z_TE, others, -torch.inf), _with(masked, others), _without(forced, others)
            case "on":
                assert amount is not None
                top_T1 = _filled(z_TE, masked, -torch.inf).amax(-1, keepdim=True) + amount
                return torch.where(experts, top_T1, z_TE), _without(masked, experts), _with(forced, experts)
            case "low":
                low_T1 = _filled(z_TE, masked, torch.inf).amin(-1, keepdim=True)
                named = experts if masked is None else experts & ~masked
                return torch.where(named, low_T1, z_TE), masked, _without(forced, experts)
            case "bias":
                assert amount is not None
                step = amount if rule.options["absolute"] else amount * self._std().to(z_TE.dtype)
                return torch.where(experts, z_TE + step, z_TE), masked, forced
            case "temperature":
                assert amount is not None
                return z_TE / amount, masked, forced
            case "vector":
                return z_TE + vector_for(rule, layer, z_TE), masked, forced
        raise AssertionError(rule.rule)

    def _std(self) -> Tensor:
        """Population standard deviation (T, 1), float32, of each row's logits, masked experts left out."""
        z_TE = self.logits_TE.float()
        masked = self.masked
        count = _count(z_TE.shape[-1], z_TE.device) if masked is None else (~masked).sum(-1, keepdim=True)
        mean_T1 = _filled(z_TE, masked, 0).sum(-1, keepdim=True) / count
        off_TE = _filled(z_TE - mean_T1, masked, 0)
        return ((off_TE * off_TE).sum(-1, keepdim=True) / count).sqrt()


def _with(mask: Tensor | None, experts: Tensor) -> Tensor:
    return experts if mask is None else mask | experts


def _without(mask: Tensor | None, experts: Tensor) -> Tensor | None:
    return None if mask is None else mask & ~experts


def _filled(values_TE: Tensor, mask: Tensor | None, value: float) -> Tensor:
    return values_TE if mask is None else filled(values_TE, mask, value)


def _in_rows(rows_T1: Tensor, new: Tensor | None, old: Tensor | None) -> Tensor | None:
    """The new mask in some rows, the old one in the others."""
    if new is None or new is old:
        return old
    return rows_T1 & new if old is None else torch.where(rows_T1, new, old)


# A tensor made in inference mode could not take part in a later backward pass, so cached ones are made outside.


@lru_cache(maxsize=4096)
def experts_mask(experts: tuple[int, ...] | None, width: int, device: torch.device) -> Tensor:
    """(1, E) bool: the experts that a rule names, of `width` experts."""
    with torch.inference_mode(False):
        mask = torch.zeros(1, width, dtype=torch.bool)
        mask[:, list(range(width) if experts is None else experts)] = True
        return mask.to(device)


@lru_cache(maxsize=256)
def _count(width: int, device: torch.device) -> Tensor:
    """(1, 1): the number of experts. A tensor, as CUDA rounds a division by a number in another way."""
    with torch.inference_mode(False):
        return torch.full((1, 1), float(width), device=device)


def filled(values: Tensor, mask: Tensor, value: float) -> Tensor:
    """`values.masked_fill(mask, value)`, in half the time where there are few rows."""
    return torch.where(mask, _constant(value, values.dtype, values.device), values)


@lru_cache(maxsize=256)
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 1)"""
    with torch.inference_mode(False):
        return torch.full((1, 1), value, dtype=dtype, device=device)


def vector_for(rule: Rule, layer: int, logits_TE: Tensor) -> Tensor:
    """The rule's vector (E,) for a layer, in the dtype and on the device of the logits."""
    vector = rule.vector_in(layer)
    if isinstance(vector, Tensor):
        return vector.to(logits_TE)
    return _vector(tuple(vector), logits_TE.dtype, logits_TE.device)


@lru_cache(maxsize=1024)
def _vector(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)
