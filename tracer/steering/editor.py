"""Steers one router while it runs: its choice (`choice_mode`), then the decision that comes of it.

Shapes: T token rows, K slots, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SteeringError
from ..routers.site import Site
from .at_selection import apply_selection, emptied, with_null_experts
from .choice_mode import ChoiceMode
from .replay import replayed
from .rows import Program, Rows
from .rules import Rule

Selection = tuple[Tensor, Tensor]
"""Ids and weights, both (T, K)."""


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
        rules = [(program, rule) for program in programs for rule in program.rules]
        at_logits = [pair for pair in rules if pair[1].kind.point == "logits"]
        self.choice = ChoiceMode(site, at_logits) if at_logits else None
        self._selecting = [
            (program, rule)
            for program, rule in rules
            if rule.kind.point == "selection" or rule.kind.rechooses
        ]
        self._chooses = any(rule.kind.rechooses for _, rule in self._selecting)
        self._empties = site.passage.empties or any(
            rule.kind.empties or rule.kind.replays for _, rule in self._selecting
        )
        self.wants_logits = any(
            rule.options.get("weights") == "live" or (rule.kind.replays and site.shared is not None)
            for _, rule in self._selecting
        )
        """Whether what the router put out is needed at the selection."""

    def settled(self, values: Iterable[Any]) -> bool:
        """Whether a call with these arguments carries a decision that is as it should be, without a look at it."""
        choice = self.choice
        if self._selecting or choice is None or choice.state is None:
            return False
        # Compared by identity: `==` between tensors compares their numbers.
        return choice.state.masked is None or any(value is choice.safe_ids for value in values)

    def decide(
        self, ids_TK: Tensor, weights_TK: Tensor | None, logits_TE: Tensor | None = None
    ) -> Decision | None:
        """The decision after all rules, or None where there is nothing to change."""
        state = self.choice.state if self.choice is not None else None
        if self.choice is not None and state is None and ids_TK.numel():
            raise SteeringError(
                f"the logits of {self.site.spec.router} could not be edited: no linear operation with "
                f"{self.site.spec.num_experts} outputs ran inside it (is its layer quantised or replaced?)"
            )
        masked = self._masked_still(ids_TK)
        if weights_TK is None or not (self._selecting or masked is not None):
            return None
        selection = own = (ids_TK, weights_TK)
        for program, rule in self._selecting:
            if rule.kind.replays:
                selection = self._replay(program, rule, selection, logits_TE)
                continue
            rows = program.rows_of(rule, len(ids_TK), self.site.spec.router)
            if rows is not False or rule.kind.rechooses:
                new = self._select(rule, selection)
                selection = new if rows is True else _merged(rows, new, selection)
        if selection is own and masked is None:
            return None
        ids_TK, weights_TK = selection
        if masked is not None:
            masked_TK = masked.expand(len(ids_TK), -1).gather(-1, ids_TK.clamp(min=0)) & (ids_TK >= 0)
            ids_TK, weights_TK = emptied(ids_TK, weights_TK, masked_TK, renormalise=self.site.normalises)
        elif not self._empties:
            return Decision(ids_TK, weights_TK, ids_TK)
        # An empty slot is computed with weight 0, for its row's best expert.
        best_T1 = weights_TK.masked_fill(ids_TK < 0, -torch.inf).argmax(-1, keepdim=True)
        best_T1 = ids_TK.gather(-1, best_T1).clamp(min=0)
        return Decision(torch.where(ids_TK < 0, best_T1, ids_TK), weights_TK, ids_TK)

    def _replay(
        self, program: Program, rule: Rule, selection: Selection, logits_TE: Tensor | None
    ) -> Selection:
        if rule.experts == ():
            return selection
        rows_T, new = replayed(rule, self.site, program, selection, logits_TE)
        merged = _merged(rows_T, new, selection)
        # Handing over the same decision anew may change the order in which experts are added up.
        unchanged = all(map(torch.equal, merged, selection))
        return selection if unchanged else merged

    def _masked_still(self, ids_TK: Tensor) -> Tensor | None:
        """The masked experts, where some of them may be among these ids."""
        if self.choice is None or self.choice.state is None:
            return None
        safe = ids_TK is self.choice.safe_ids and not self._chooses
        return None if safe else self.choice.state.masked

    def _select(self, rule: Rule, selection: Selection) -> Selection:
        spec = self.site.spec
        if not rule.kind.rechooses:
            return apply_selection(rule, spec.layer, *selection, spec.num_experts, full=not self._empties)
        assert self.choice is not None
        assert self.choice.state is not None
        logits_TE = self.choice.state.logits_TE
        return with_null_experts(rule, *selection, logits_TE, spec.scoring, normalises=self.site.normalises)


def _merged(rows: Rows, new: Selection, old: Selection) -> Selection:
    """The new selection in these rows, the old one elsewhere; a narrower one gets empty slots at its end."""
    width = max(new[0].shape[-1], old[0].shape[-1])
    new, old = _widened(*new, width), _widened(*old, width)
    if not isinstance(rows, Tensor):
        return new if rows else old
    rows_T1 = rows.unsqueeze(-1)
    return torch.where(rows_T1, new[0], old[0]), torch.where(rows_T1, new[1], old[1])


def _widened(ids_TK: Tensor, weights_TK: Tensor, width: int) -> Selection:
    missing = width - ids_TK.shape[-1]
    if not missing:
        return ids_TK, weights_TK
    return F.pad(ids_TK, (0, missing), value=-1), F.pad(weights_TK, (0, missing))
