"""What rules do to the logits of a router, before it chooses.

Shapes: T token rows, E experts. A mask has shape (1, E) where it holds for all rows, else (T, E); None is a mask
of no expert, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
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
        logits_TE, masked, forced = EDITS[rule.rule](self, rule, layer)
        if isinstance(rows, Tensor):
            rows_T1 = rows.unsqueeze(-1)
            logits_TE = torch.where(rows_T1, logits_TE, self.logits_TE)
            masked = _in_rows(rows_T1, masked, self.masked)
            forced = _in_rows(rows_T1, forced, self.forced)
        self.logits_TE, self.masked, self.forced = logits_TE, masked, forced

    def std(self) -> Tensor:
        """Population standard deviation (T, 1), float32, of each row's logits, masked experts left out."""
        z_TE = self.logits_TE.float()
        masked = self.masked
        count = _count(z_TE.shape[-1], z_TE.device) if masked is None else (~masked).sum(-1, keepdim=True)
        mean_T1 = _filled(z_TE, masked, 0).sum(-1, keepdim=True) / count
        off_TE = _filled(z_TE - mean_T1, masked, 0)
        return ((off_TE * off_TE).sum(-1, keepdim=True) / count).sqrt()


def _off(state: LogitState, rule: Rule, layer: int) -> Changed:
    return _masking(state, _named(rule, state))


def _keep_only(state: LogitState, rule: Rule, layer: int) -> Changed:
    return _masking(state, ~_named(rule, state))


def _masking(state: LogitState, gone: Tensor) -> Changed:
    z_TE = _filled(state.logits_TE, gone, -torch.inf)
    return z_TE, _with(state.masked, gone), _without(state.forced, gone)


def _on(state: LogitState, rule: Rule, layer: int) -> Changed:
    experts, margin = _named(rule, state), rule.amount_in(layer)
    assert margin is not None
    top_T1 = _filled(state.logits_TE, state.masked, -torch.inf).amax(-1, keepdim=True) + margin
    z_TE = torch.where(experts, top_T1, state.logits_TE)
    return z_TE, _without(state.masked, experts), _with(state.forced, experts)


def _low(state: LogitState, rule: Rule, layer: int) -> Changed:
    experts, masked = _named(rule, state), state.masked
    low_T1 = _filled(state.logits_TE, masked, torch.inf).amin(-1, keepdim=True)
    # A masked expert stays at -inf: the lowest of the others would bring it back.
    lowered = experts if masked is None else experts & ~masked
    return torch.where(lowered, low_T1, state.logits_TE), masked, _without(state.forced, experts)


def _bias(state: LogitState, rule: Rule, layer: int) -> Changed:
    z_TE, amount = state.logits_TE, rule.amount_in(layer)
    assert amount is not None
    step = amount if rule.options["absolute"] else amount * state.std().to(z_TE.dtype)
    return torch.where(_named(rule, state), z_TE + step, z_TE), state.masked, state.forced


def _temperature(state: LogitState, rule: Rule, layer: int) -> Changed:
    tau = rule.amount_in(layer)
    assert tau is not None
    return state.logits_TE / tau, state.masked, state.forced


def _vector_added(state: LogitState, rule: Rule, layer: int) -> Changed:
    return state.logits_TE + vector_for(rule, layer, state.logits_TE), state.masked, state.forced


Changed = tuple[Tensor, Tensor | None, Tensor | None]
"""Logits, masked and forced experts after a rule, for all rows."""
EDITS: dict[str, Callable[[LogitState, Rule, int], Changed]] = {
    "off": _off, "keep_only": _keep_only, "on": _on, "low": _low, "bias": _bias,
    "temperature": _temperature, "vector": _vector_added,
}  # fmt: skip
"""What each kind does in a layer. `null_experts` chooses anew instead (`at_selection`)."""


def _named(rule: Rule, state: LogitState) -> Tensor:
    """(1, E) bool: the experts that the rule names."""
    return experts_mask(rule.experts, state.logits_TE.shape[-1], state.logits_TE.device)


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
