"""Steers what a router chooses, while its forward runs.

The logits arise somewhere inside the router. A `TorchFunctionMode` that is active only there edits the output
of the linear layer that makes them, and then watches over the choice: whatever the router does to its scores
(a correction bias, groups of experts, zeros from an underflow), a masked expert never wins a `topk` and a
forced one always does. Neither needs family-specific code.

Shapes: T token rows, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .passages import flat
from .sites import Site
from .steering_logits import LogitState
from .steering_rows import Program
from .steering_rules import Rule

LINEAR = {F.linear, torch.mm, torch.matmul, Tensor.mm, Tensor.matmul, Tensor.__matmul__, torch.addmm}
TOPK = {torch.topk, Tensor.topk}
MAXIMUM = {torch.max, Tensor.max, torch.amax, Tensor.amax}
ARGMAX = {torch.argmax, Tensor.argmax}
GROUP_STEP = 1e4
"""What a masked or forced expert takes from or adds to the score of its group: far more than any score."""


class Choice(TorchFunctionMode):
    """The choice of one router during one forward: active between `begin` and `end`."""

    def __init__(self, site: Site, programs: Sequence[tuple[Program, Rule]]) -> None:
        super().__init__()
        self.site = site
        self.state: LogitState | None = None
        """Logits, masked and forced experts, once the logits were edited."""
        self._rules = [(program, rule) for program, rule in programs if rule.rule != "null_experts"]
        self._experts = site.spec.num_experts
        self._open = self._experts - len(_ever_masked(self._rules, self._experts))
        """Experts that no rule masks, whatever the row."""
        self.safe_ids: Tensor | None = None
        """What was chosen last, where a masked expert can't be among it."""
        self._watching = False
        self._entered = False
        self._places: Tensor | None = None
        self._ambiguous = _has_rival(site)

    def begin(self) -> None:
        """The router's forward begins."""
        self.state, self._places, self.safe_ids = None, None, None
        self._watching = self._entered = True
        self.__enter__()

    def pause(self) -> None:
        """The choice is made: what is computed from here on is none of ours."""
        self._watching = False

    def end(self) -> None:
        """The forward has returned or failed."""
        self._watching = False
        if self._entered:
            self._entered = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._watching:
            return func(*args, **kwargs)
        if self.state is None:
            return self._before_edit(func, args, kwargs)
        if func in TOPK and self._are_scores(args[0]):
            _, ids = func(self._guarded(args[0]), *args[1:], **kwargs)
            self.safe_ids = ids if ids.shape[-1] <= self._open else None
            return torch.return_types.topk((args[0].gather(-1, ids), ids))
        if func in ARGMAX and self._are_scores(args[0]):
            return func(self._guarded(args[0]), *args[1:], **kwargs)
        if (func in TOPK or func in MAXIMUM) and self._are_grouped(args[0]):
            return func(self._guarded_groups(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _before_edit(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.site.edits_scores:
            if func in TOPK and args[0].shape[-1] == self._experts:
                return self._choose_scored(args[0], func, args[1:], kwargs)
            out = func(*args, **kwargs)
            if isinstance(out, Tensor) and out.dtype == torch.int64 and out.shape[-1:] == (self._experts,):
                self._places = out
            return out
        out = func(*args, **kwargs)
        if func in LINEAR and self._makes_logits([*args, *kwargs.values()], out):
            return self._edited(out)
        return out

    def _makes_logits(self, values: Sequence[Any], out: Any) -> bool:
        """Whether a linear operation is the one that scores the experts."""
        weight = self.site.weight
        if weight is None or not isinstance(out, Tensor) or out.shape[-1] != weight.shape[0]:
            return False
        operands = [x for x in values if isinstance(x, Tensor) and x.dim() == 2]
        if self._ambiguous:
            return any(x is weight for x in operands)
        return any(x.shape in (weight.shape, weight.shape[::-1]) for x in operands)

    def _edited(self, logits: Tensor) -> Tensor:
        """The logits (..., E or more) after all rules at the logits."""
        wider = logits.shape[-1] > self._experts
        own = logits[..., : self._experts] if wider else logits
        state = LogitState(flat(own) if own.dim() > 1 else own.unsqueeze(0))
        for program, rule in self._rules:
            rows = program.rows_of(rule, len(state.logits_TE), self.site.spec.router)
            state.apply(rule, self.site.spec.layer, rows)
        self.state = state
        # Without masks the choice among the edited logits is the router's own affair.
        self._watching = state.masked is not None or state.forced is not None
        edited = state.logits_TE.reshape(own.shape)
        return torch.cat([edited, logits[..., self._experts :]], -1) if wider else edited

    def _choose_scored(self, scores: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
        """Edit scores (..., E) where they are chosen from; `_places` says whose score stands where."""
        assert self._places is not None
        places_TE = flat(self._places)
        edited_TE = self._edited(torch.zeros_like(flat(scores)).scatter(-1, places_TE, flat(scores)))
        self.site.passage.scores_TE = edited_TE.detach()
        _, at = func(self._guarded(edited_TE).gather(-1, places_TE).reshape(scores.shape), *args, **kwargs)
        return torch.return_types.topk(
            (edited_TE.gather(-1, places_TE).reshape(scores.shape).gather(-1, at), at)
        )

    def _are_scores(self, values: Any) -> bool:
        return isinstance(values, Tensor) and values.is_floating_point() and values.shape[-1] == self._experts

    def _are_grouped(self, values: Any) -> bool:
        if not isinstance(values, Tensor) or values.dim() < 3 or not values.is_floating_point():
            return False
        groups, size = values.shape[-2:]
        return size < self._experts and groups * size == self._experts

    def _guarded(self, scores: Tensor) -> Tensor:
        """Scores (..., E) as a choice among them must see them, float32."""
        # Scores that the router itself set to -inf (closed groups) still come before masked experts.
        guarded = scores.float().clamp(min=torch.finfo(torch.float32).min)
        return self._filled(guarded, torch.inf)

    def _guarded_groups(self, scores: Tensor) -> Tensor:
        """Scores (..., groups, E / groups) as a choice among groups must see them."""
        return self._filled(scores, GROUP_STEP)

    def _filled(self, scores: Tensor, step: float) -> Tensor:
        """Scores with -step for masked experts and step for forced ones."""
        assert self.state is not None
        for mask, value in ((self.state.masked, -step), (self.state.forced, step)):
            if mask is not None:
                scores = scores.masked_fill(self._mask_like(mask, scores), value)
        return scores

    def _mask_like(self, mask: Tensor, scores: Tensor) -> Tensor:
        if mask.shape == scores.shape:
            return mask
        return mask.expand(scores.numel() // self._experts, -1).reshape(scores.shape)


def _ever_masked(rules: Sequence[tuple[Program, Rule]], experts: int) -> set[int]:
    """All experts that some rule masks in some row."""
    masked: set[int] = set()
    for _, rule in rules:
        named = set(range(experts) if rule.experts is None else rule.experts)
        if rule.rule in ("off", "keep_only"):
            masked |= named if rule.rule == "off" else set(range(experts)) - named
    return masked


def _has_rival(site: Site) -> bool:
    """Whether another weight inside the router could be mistaken for the one that makes the logits."""
    weight, scope = site.weight, site.scope
    if weight is None or scope is None:
        return False
    return any(p is not weight and p.shape == weight.shape for p in scope.parameters())
