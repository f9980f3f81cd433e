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
from ..routers.passages import Call
from ..routers.site import Site
from .at_selection import apply_selection, emptied
from .choice_mode import ChoiceMode
from .masked import masked_slots
from .rechoose import rechosen
from .replay import replayed
from .rows import Program, Rows
from .rules import Rule
from .theta import thetas

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
    factor_TD: Tensor | None = None
    """What the experts' input is multiplied by."""


class RouterEditor:
    """All steering of one router."""

    def __init__(self, site: Site, programs: Sequence[Program]) -> None:
        self.site = site
        rules = [(program, rule) for program in programs for rule in program.rules if not rule.on_pairs]
        at_logits = [pair for pair in rules if pair[1].kind.point == "logits"]
        self.choice = ChoiceMode(site, at_logits) if at_logits else None
        self._selecting = [
            (program, rule) for program, rule in rules if rule.kind.point == "selection" or rule.rechooses
        ]
        self._chooses = any(rule.rechooses for _, rule in self._selecting)
        self._empties = site.passage.empties or any(
            rule.kind.empties or rule.kind.replays or rule.rechooses for _, rule in self._selecting
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
        self,
        ids_TK: Tensor,
        weights_TK: Tensor | None,
        logits_TE: Tensor | None = None,
        call: Call | None = None,
    ) -> Decision | None:
        """The decision after all rules, or None where there is nothing to change.

        Args:
            call: of the module that carries the decision, for rules on what the experts receive.
        """
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
        factor: Tensor | None = None
        for program, rule in self._selecting:
            if rule.reads_tokens:
                selection = self._by_token(program, rule, selection, logits_TE)
                continue
            rows = program.rows_of(rule, len(ids_TK), self.site.spec.router)
            if rows is not False or rule.rechooses:
                new = self._select(program, rule, selection, call)
                if path := rule.options.get("theta"):
                    own_factor = self._factor(path, rows, new, selection)
                    factor = own_factor if factor is None else factor * own_factor
                selection = new if rows is True else _merged(rows, new, selection)
        if selection is own and masked is None:
            return None
        ids_TK, weights_TK = selection
        if masked is not None:
            masked_TK = masked.expand(len(ids_TK), -1).gather(-1, ids_TK.clamp(min=0)) & (ids_TK >= 0)
            ids_TK, weights_TK = emptied(ids_TK, weights_TK, masked_TK, renormalise=self.site.normalises)
        elif not self._empties:
            return Decision(ids_TK, weights_TK, ids_TK, factor)
        # An empty slot is computed with weight 0, for its row's best expert.
        best_T1 = weights_TK.masked_fill(ids_TK < 0, -torch.inf).argmax(-1, keepdim=True)
        best_T1 = ids_TK.gather(-1, best_T1).clamp(min=0)
        return Decision(torch.where(ids_TK < 0, best_T1, ids_TK), weights_TK, ids_TK, factor)

    def _by_token(
        self, program: Program, rule: Rule, selection: Selection, logits_TE: Tensor | None
    ) -> Selection:
        if rule.experts == ():
            return selection
        if rule.kind.masks_slots:
            rows_T, new = masked_slots(rule, self.site, program, selection)
        else:
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

    def _factor(self, path: str, rows: Rows, new: Selection, old: Selection) -> Tensor:
        """(T, D): what the dropped experts leave behind; 1 in the other rows."""
        dropped_TK = (old[0] >= 0) & (new[0] < 0)
        factor_TD = thetas(path).factor(self.site.spec.layer, *old, dropped_TK)
        return factor_TD if rows is True else torch.where(_column(rows), factor_TD, 1.0)

    def _protected(self, program: Program, rule: Rule, call: Call | None) -> Tensor | None:
        """(T,) bool: tokens of which a rule drops no expert."""
        if not (share := rule.options.get("protect")) or program.paid is None or call is None:
            return None
        hidden_TD, (batch, length) = self.site.passage.hidden(call), program.rows.shape
        if len(hidden_TD) != batch * length:
            raise SteeringError(
                f"{self.site.spec.router} decides on {len(hidden_TD)} rows, not on the {batch} x {length} tokens "
                "of the batch, so tokens cannot be protected there"
            )
        hidden_BSD = hidden_TD.view(batch, length, -1)
        return program.paid.protected(hidden_BSD, program.rows.real(), share).reshape(-1)

    def _select(self, program: Program, rule: Rule, selection: Selection, call: Call | None) -> Selection:
        spec = self.site.spec
        if not rule.rechooses:
            protected_T = self._protected(program, rule, call)
            full = not self._empties
            return apply_selection(
                rule, spec.layer, *selection, spec.num_experts, full=full, protected_T=protected_T
            )
        assert self.choice is not None
        assert self.choice.state is not None
        logits_TE = self.choice.state.logits_TE
        return rechosen(rule, *selection, logits_TE, spec.scoring, normalises=self.site.normalises)


def _column(rows: Rows) -> Any:
    return rows.unsqueeze(-1) if isinstance(rows, Tensor) else torch.tensor(rows)


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
