"""Steers what a router chooses, while its forward runs.

The logits arise somewhere inside the router. A `TorchFunctionMode` that is active only there edits the output
of the linear layer that makes them, and then watches over the choice: whatever the router does to its scores
(a correction bias, groups of experts, zeros from an underflow), a masked expert never wins a `topk` and a
forced one always does. Neither needs family-specific code.

Shapes: T token rows, E experts.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..routers.passages import flat
from ..routers.site import Site
from .at_logits import LogitState, filled
from .rows import Program
from .rules import Rule

LINEAR = {F.linear, torch.mm, torch.matmul, Tensor.mm, Tensor.matmul, Tensor.__matmul__, torch.addmm}
TOPK = {torch.topk, Tensor.topk}
MAXIMUM = {torch.max, Tensor.max, torch.amax, Tensor.amax}
ARGMAX = {torch.argmax, Tensor.argmax}
CHOOSING = TOPK | MAXIMUM | ARGMAX
SCORING = {F.softmax, torch.softmax, Tensor.softmax, torch.sigmoid, Tensor.sigmoid, F.sigmoid}
CHOOSING_SCORES = CHOOSING | SCORING
NOTHING: Container[Any] = frozenset()


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Container[Any] = _Everything()
GROUP_STEP = 1e4
"""What a masked or forced expert takes from or adds to the score of its group: far more than any score."""


class ChoiceMode(TorchFunctionMode):
    """The choice of one router during one forward: active between `begin` and `end`."""

    def __init__(self, site: Site, programs: Sequence[tuple[Program, Rule]]) -> None:
        super().__init__()
        self.site = site
        self.state: LogitState | None = None
        """Logits, masked and forced experts, once the logits were edited."""
        rules = [(program, rule) for program, rule in programs if not rule.kind.rechooses]
        self._rules = [(None if program.on_all(rule) else program, rule) for program, rule in rules]
        """Rules, with their program where they don't act on every row."""
        self._experts = site.spec.num_experts
        self._open = self._experts - len(_ever_masked([rule for _, rule in rules], self._experts))
        """Experts that no rule masks, whatever the row."""
        self.safe_ids: Tensor | None = None
        """What was chosen last, where a masked expert can't be among it."""
        self._looks_at: Container[Any] = NOTHING
        """Functions that matter at this point of the forward."""
        self._entered = False
        self._places: Tensor | None = None
        self._ambiguous = _has_rival(site)
        self._last = _has_no_other_weight(site)
        self._rest: Any = None
        self._probabilities: Tensor | None = None
        """Float32 scores from 0 on, where a softmax or sigmoid made them in the operation just before."""
        self._before_groups: Tensor | None = None
        """Scores (..., groups, E / groups) among which groups were chosen, before the router closed any."""
        self._choices = 0
        """How often this forward has chosen."""
        self._all_choices: tuple[bool, int] | None = None
        """How often the last forward that was watched to its end chose, and whether it was in training."""

    def begin(self, *_: Any) -> None:
        """The router's forward begins."""
        self.state = self._places = self.safe_ids = self._probabilities = self._before_groups = None
        self._choices = 0
        self._looks_at = EVERYTHING if self.site.edits_scores else LINEAR
        self._entered = True
        self.__enter__()

    def pause(self) -> None:
        """The choice is made: what is computed from here on is none of ours."""
        self._looks_at = NOTHING

    def end(self, router: nn.Module, _: Any = None, output: Any = None) -> None:
        """The forward has returned or failed (without an output)."""
        if self._rest is not None:
            self._rest.__exit__(None, None, None)
            self._rest = None
        elif self._looks_at is CHOOSING_SCORES and output is not None:
            self._all_choices = (router.training, self._choices)
        self._looks_at = NOTHING
        if self._entered:
            self._entered = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Called for every operation of the router's forward: most must pass at once.
        kwargs = kwargs or {}
        if func not in self._looks_at:
            self._probabilities = None
            return func(*args, **kwargs)
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {name: kwargs[name] for name in kwargs if name != "input"}
        if self.state is None:
            return self._before_edit(func, args, kwargs)
        if func in SCORING:
            out = func(*args, **kwargs)
            self._probabilities = out if out.dtype == torch.float32 else None
            return out
        out = self._choose(func, args, kwargs)
        self._choices += 1
        if self._all_choices == (self.site.router.training, self._choices):
            self._look_no_more()
        return out

    def _choose(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What a choice among scores or groups gives, without masked experts and with forced ones."""
        if func in TOPK and self._are_scores(args[0]):
            return self._top(func, args[0], args[1:], kwargs)
        if func in ARGMAX and self._are_scores(args[0]):
            return func(self._guarded(args[0]), *args[1:], **kwargs)
        if (func in TOPK or func in MAXIMUM) and self._are_grouped(args[0]):
            self._before_groups = args[0]
            return func(self._guarded_groups(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _top(self, func: Any, scores: Tensor, args: Any, kwargs: Any) -> Any:
        assert self.state is not None
        if scores is self._probabilities and self.state.forced is None and self.state.masked is not None:
            # Nothing to clamp, and what is chosen still has its own score.
            out = func(
                filled(scores, self._mask_like(self.state.masked, scores), -torch.inf), *args, **kwargs
            )
            if out[1].shape[-1] <= self._open:
                self.safe_ids = out[1]
                return out
        # Scores (T, E). Guarded ones decide which ids (T, k) win; the values that go on to the gate weights are the
        # router's own at those ids, or a forced expert would get the weight of the guard.
        _, ids = func(self._guarded(scores), *args, **kwargs)
        # With no more slots than open experts no masked one can have filled a slot: `decide` needs no second look.
        self.safe_ids = ids if ids.shape[-1] <= self._open else None
        closed = self._closed(scores)
        own = scores if closed is None else torch.where(*closed, scores)
        return torch.return_types.topk((own.gather(-1, ids), ids))

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
        weight = self.site.weight_now()
        if weight is None or not isinstance(out, Tensor) or out.shape[-1] != weight.shape[0]:
            return False
        for x in values:
            if x is weight:
                return True
        # The weight may come transposed, cast or gathered from other devices: then its shape, (E, D) or (D, E), tells
        # it, unless another weight of the router has the same.
        operands = [x for x in values if isinstance(x, Tensor) and x.dim() == 2]
        if self._ambiguous:
            return False
        return any(x.shape in (weight.shape, weight.shape[::-1]) for x in operands)

    def _edited(self, logits: Tensor) -> Tensor:
        """The logits (..., E or more) after all rules at the logits."""
        # Some routers score more than experts (a skip, shared experts): rules act on the first E columns alone.
        wider = logits.shape[-1] > self._experts
        own = logits[..., : self._experts] if wider else logits
        state = LogitState(flat(own) if own.dim() > 1 else own.unsqueeze(0))
        spec = self.site.spec
        for program, rule in self._rules:
            rows = program is None or program.rows_of(rule, len(state.logits_TE), spec.router)
            state.apply(rule, spec.layer, rows)
        self.state = state
        # Without masks the choice among the edited logits is the router's own affair.
        self._last = self._last and type(logits) is Tensor
        if state.masked is None and state.forced is None:
            self._look_no_more()
        else:
            self._looks_at = CHOOSING_SCORES
        edited = state.logits_TE if own.dim() == 2 else state.logits_TE.reshape(own.shape)
        return torch.cat([edited, logits[..., self._experts :]], -1) if wider else edited

    def _look_no_more(self) -> None:
        """Let the rest of the forward pass by, at full speed where nobody else looks at its operations."""
        self._looks_at = NOTHING
        if self._last and not torch._C._len_torch_function_stack():
            self._rest = torch._C.DisableTorchFunction()
            self._rest.__enter__()

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
        closed = self._closed(scores)
        if closed is not None:
            # The best of them first: where masks leave open groups with fewer than k, the next best takes the slot.
            place = closed[1].argsort(-1).argsort(-1)
            guarded = torch.where(closed[0], torch.finfo(torch.float32).min / (1 + place), guarded)
        return self._filled(guarded, torch.inf)

    def _closed(self, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """Where the router has closed groups by -inf or 0, and the scores before that; both like `scores`."""
        assert self.state is not None
        if self._before_groups is None or self.state.masked is None:
            return None
        before = self._before_groups.reshape(scores.shape)
        return (scores != before) & (torch.isneginf(scores) | (scores == 0)), before

    def _guarded_groups(self, scores: Tensor) -> Tensor:
        """Scores (..., groups, E / groups) as a choice among groups must see them."""
        return self._filled(scores, GROUP_STEP)

    def _filled(self, scores: Tensor, step: float) -> Tensor:
        """Scores with -step for masked experts and step for forced ones."""
        assert self.state is not None
        for mask, value in ((self.state.masked, -step), (self.state.forced, step)):
            if mask is not None:
                scores = filled(scores, self._mask_like(mask, scores), value)
        return scores

    def _mask_like(self, mask: Tensor, scores: Tensor) -> Tensor:
        if scores.dim() == 2 and scores.shape[-1] == self._experts:
            return mask
        return mask.expand(scores.numel() // self._experts, -1).reshape(scores.shape)


def _ever_masked(rules: Sequence[Rule], experts: int) -> set[int]:
    """All experts that some rule masks in some row."""
    masked: set[int] = set()
    for rule in rules:
        named = set(range(experts) if rule.experts is None else rule.experts)
        if rule.kind.masks:
            masked |= named if rule.kind.masks == "named" else set(range(experts)) - named
    return masked


def _has_no_other_weight(site: Site) -> bool:
    """Whether the router is the whole scope and has one matrix, so that plain operations are all that is left of
    its forward once the logits are there."""
    return site.scope is site.router and sum(p.dim() > 1 for p in site.router.parameters()) == 1


def _has_rival(site: Site) -> bool:
    """Whether another weight inside the router could be mistaken for the one that makes the logits."""
    weight, scope = site.weight_now(), site.scope
    if weight is None or scope is None:
        return False
    return any(p is not weight and p.shape == weight.shape for p in scope.parameters())
