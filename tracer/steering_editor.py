"""Steers one router while it runs, at the logits and at the selection.

The logits arise somewhere inside the router's forward. A `TorchFunctionMode` that is active only there edits
the output of the linear layer that makes them, and then watches over the choice: whatever the router does to
its scores (a correction bias, groups of experts, zeros from an underflow), a masked expert never wins a
`topk` and a forced one always does. Both edits need no family-specific code.

Shapes: T token rows, K slots, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .errors import SteeringError
from .passages import flat
from .sites import Site
from .steering_logits import LogitState
from .steering_rows import RowMap
from .steering_rules import Rule
from .steering_selection import apply_selection, emptied, with_null_experts

LINEAR = {F.linear, torch.mm, torch.matmul, Tensor.mm, Tensor.matmul, Tensor.__matmul__, torch.addmm}
TOPK = {torch.topk, Tensor.topk}
MAXIMUM = {torch.max, Tensor.max, torch.amax, Tensor.amax}
ARGMAX = {torch.argmax, Tensor.argmax}
GROUP_STEP = 1e4
"""What a masked or forced expert takes from or adds to the score of its group: far more than any score."""


@dataclass(frozen=True)
class Program:
    """Rules for the sequences of a batch that they are for."""

    rules: tuple[Rule, ...]
    rows: RowMap
    sequences: tuple[bool, ...] | None = None
    """Which sequences of the batch (None: all)."""

    def rows_of(self, rule: Rule, count: int, router: str) -> Tensor | None:
        return self.rows.rows(rule.span, self.sequences, count, router)


@dataclass
class Decision:
    """A steered decision: what is executed, and what of it is recorded."""

    ids_TK: Tensor
    """Valid ids; an empty slot repeats an expert of its row, with weight 0."""
    weights_TK: Tensor
    recorded_ids_TK: Tensor
    """The same with -1 for empty slots."""


class RouterEditor:
    """All steering of one router."""

    def __init__(self, site: Site, programs: Sequence[Program]) -> None:
        self.site = site
        self.programs = [
            (program, rule)
            for program in programs
            for rule in program.rules
            if rule.acts_in(*self._where(site))
        ]
        self.edits_logits = any(rule.kind.point == "logits" for _, rule in self.programs)
        self._masks = any(rule.rule in ("off", "keep_only") for _, rule in self.programs)
        self._state: LogitState | None = None
        self._mode = _RouterMode(self)
        self._depth = 0
        self._rivals = _same_shaped(site)

    @staticmethod
    def _where(site: Site) -> tuple[int, str]:
        return site.spec.layer, site.spec.stream

    def begin(self) -> None:
        """The router's forward begins."""
        self._state = None
        self._mode.watching = True
        self._mode.__enter__()
        self._depth += 1

    def end(self) -> None:
        """It has returned or failed."""
        if self._depth:
            self._depth -= 1
            self._mode.watching = False
            self._mode.__exit__(None, None, None)

    def pause(self) -> None:
        """The choice is made: what is computed from here on is none of ours."""
        self._mode.watching = False

    def makes_logits(self, args: Sequence[Any], out: Any) -> bool:
        """Whether a linear operation is the one that scores the experts."""
        weight = self.site.weight
        if weight is None or len(args) < 2 or not isinstance(out, Tensor) or self._state is not None:
            return False
        operands = [x for x in args if isinstance(x, Tensor) and x.dim() == 2]
        if self._rivals:
            return any(x is weight for x in operands)
        return out.shape[-1] == weight.shape[0] and any(
            x.shape in (weight.shape, weight.shape[::-1]) for x in operands
        )

    def edit(self, logits: Tensor) -> Tensor:
        """The logits (..., E or more) after all rules at the logits."""
        count = self.site.spec.num_experts
        own = logits[..., :count]
        state = LogitState.of(flat(own) if own.dim() > 1 else own.unsqueeze(0))
        for program, rule in self.programs:
            if rule.kind.point == "logits" and rule.rule != "null_experts":
                rows_T = program.rows_of(rule, len(state.logits_TE), self.site.spec.router)
                state.apply(rule, self.site.spec.layer, rows_T)
        self._state = state
        edited = state.logits_TE.reshape(own.shape)
        return edited if own.shape == logits.shape else torch.cat([edited, logits[..., count:]], -1)

    def guard(self, scores: Tensor) -> Tensor:
        """Scores (..., E) as a choice among them must see them, float32."""
        assert self._state is not None
        masked, forced = (self._like(mask, scores) for mask in (self._state.masked, self._state.forced))
        # Scores that the router itself set to -inf (closed groups) still come before masked experts.
        guarded = scores.float().clamp(min=torch.finfo(torch.float32).min)
        return guarded.masked_fill(masked, -torch.inf).masked_fill(forced, torch.inf)

    def guard_groups(self, scores: Tensor) -> Tensor:
        """Scores (..., groups, E / groups) as a choice among groups must see them."""
        assert self._state is not None
        masked, forced = (self._like(mask, scores) for mask in (self._state.masked, self._state.forced))
        return scores.masked_fill(masked, -GROUP_STEP).masked_fill(forced, GROUP_STEP)

    def _like(self, mask: Tensor, scores: Tensor) -> Tensor:
        rows = scores.numel() // mask.shape[-1]
        return mask.expand(rows, -1).reshape(scores.shape)

    def chooses(self, scores: Any) -> bool:
        return (
            self._state is not None
            and isinstance(scores, Tensor)
            and (scores.shape[-1] == self.site.spec.num_experts and scores.is_floating_point())
        )

    def chooses_groups(self, scores: Any) -> bool:
        count = self.site.spec.num_experts
        return (
            self._state is not None
            and isinstance(scores, Tensor)
            and scores.dim() > 2
            and (scores.shape[-1] < count and scores.shape[-2] * scores.shape[-1] == count)
        )

    def decide(self, ids_TK: Tensor, weights_TK: Tensor | None) -> Decision | None:
        """The decision after all rules, or None where there is nothing to change."""
        state, spec = self._state, self.site.spec
        if self.edits_logits and state is None and ids_TK.numel():
            raise SteeringError(
                f"the logits of {spec.router} could not be edited: no linear operation with {spec.num_experts} "
                "outputs ran inside it (is its layer quantised or replaced?)"
            )
        if weights_TK is None:
            return None
        ids, weights, changed = ids_TK, weights_TK, False
        for program, rule in self.programs:
            if rule.kind.point == "logits" and rule.rule != "null_experts":
                continue
            rows_T = program.rows_of(rule, len(ids), spec.router)
            ids, weights = _merged(rows_T, self._select(rule, ids, weights, state), (ids, weights))
            changed = True
        if state is not None and self._masks:
            masked_TK = state.masked.expand(len(ids), -1).gather(-1, ids.clamp(min=0)) & (ids >= 0)
            ids, weights = emptied(ids, weights, masked_TK, renormalise=self.site.normalises)
            changed = True
        if not changed:
            return None
        # An empty slot is computed with weight 0, for its row's best expert.
        best_T1 = ids.gather(-1, weights.masked_fill(ids < 0, -torch.inf).argmax(-1, keepdim=True))
        return Decision(torch.where(ids < 0, best_T1.clamp(min=0), ids), weights, ids)

    def _select(
        self, rule: Rule, ids_TK: Tensor, weights_TK: Tensor, state: LogitState | None
    ) -> tuple[Tensor, Tensor]:
        spec = self.site.spec
        if rule.rule != "null_experts":
            return apply_selection(rule, spec.layer, ids_TK, weights_TK, spec.num_experts)
        assert state is not None
        normalises = self.site.normalises
        return with_null_experts(
            rule, ids_TK, weights_TK, state.logits_TE, spec.scoring, normalises=normalises
        )


class _RouterMode(TorchFunctionMode):
    """Sees every torch function called inside one router's forward."""

    def __init__(self, editor: RouterEditor) -> None:
        super().__init__()
        self.editor = editor
        self.watching = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.watching:
            return func(*args, **kwargs)
        if func in LINEAR:
            out = func(*args, **kwargs)
            values = [*args, *kwargs.values()]
            return self.editor.edit(out) if self.editor.makes_logits(values, out) else out
        if func in TOPK and self.editor.chooses(args[0]):
            _, ids = func(self.editor.guard(args[0]), *args[1:], **kwargs)
            return torch.return_types.topk((args[0].gather(-1, ids), ids))
        if func in ARGMAX and self.editor.chooses(args[0]):
            return func(self.editor.guard(args[0]), *args[1:], **kwargs)
        if (func in TOPK or func in MAXIMUM) and args and self.editor.chooses_groups(args[0]):
            return func(self.editor.guard_groups(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _same_shaped(site: Site) -> bool:
    """Whether another weight inside the router could be mistaken for the one that makes the logits."""
    if site.weight is None or site.scope is None:
        return False
    others = (p for p in site.scope.parameters() if p is not site.weight)
    return any(p.dim() == 2 and (p.shape == site.weight.shape) for p in others)


def _merged(
    rows_T: Tensor | None, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """New ids and weights where `rows_T`, old ones elsewhere; narrower ones get empty slots at their end."""
    width = max(new[0].shape[-1], old[0].shape[-1])
    new, old = _widened(*new, width), _widened(*old, width)
    if rows_T is None:
        return new
    rows_T1 = rows_T.unsqueeze(-1)
    return torch.where(rows_T1, new[0], old[0]), torch.where(rows_T1, new[1], old[1])


def _widened(ids_TK: Tensor, weights_TK: Tensor, width: int) -> tuple[Tensor, Tensor]:
    missing = width - ids_TK.shape[-1]
    if not missing:
        return ids_TK, weights_TK
    return F.pad(ids_TK, (0, missing), value=-1), F.pad(weights_TK, (0, missing))
