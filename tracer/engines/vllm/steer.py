"""Steering inside vLLM: each request's own rules, on its own rows of the step that is running.

The rules are those of `steering`: on the logits before the router chooses, on the selection after it. Rows of
requests without rules pass bit for bit as they were.

Shapes: T rows of a step, K slots, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....store.schema import RouterSpec
from ...errors import SteeringError
from ...steering.at_logits import LogitState
from ...steering.at_selection import apply_selection, emptied
from ...steering.check import effective
from ...steering.rules import Rule
from ...steering.span import PositionSpan


@dataclass(frozen=True)
class StepRequest:
    """One request in a step."""

    rules: tuple[Rule, ...]
    first: int
    """Its first row of the step."""
    stop: int
    prompt_length: int
    """Tokens that count as prompt, for rules with that span."""


class StepSteering:
    """What edits the decisions of one step; made anew for each.

    Args:
        requests: those of the step that have rules.
        position_T: position of each row in its own sequence.
        normalises: by router, whether the model scales its gate weights to a fixed sum.
    """

    def __init__(
        self, requests: Sequence[StepRequest], position_T: Tensor, normalises: Sequence[bool]
    ) -> None:
        self._rows = [
            (rule, _rows_of(request, rule.span, position_T)) for request in requests for rule in request.rules
        ]
        self._normalises = normalises
        self._masked: dict[int, Tensor | None] = {}

    def edit_logits(self, number: int, spec: RouterSpec, logits: Tensor) -> Tensor:
        """The logits (T, E or more) after all rules at the logits."""
        state = LogitState(logits[:, : spec.num_experts])
        acting = set(map(id, effective([rule for rule, _ in self._rows], spec)))
        for rule, rows_T in self._rows:
            if rule.kind.point == "logits" and id(rule) in acting:
                state.apply(rule, spec.layer, _padded(rows_T, len(logits)))
        self._masked[number] = state.masked
        return torch.cat([state.logits_TE, logits[:, spec.num_experts :]], -1)

    def edit_selection(
        self, number: int, spec: RouterSpec, weights_TK: Tensor, ids_TK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gate weights and ids that are executed, and the ids that are recorded, -1 in emptied slots."""
        new_ids, new_weights = ids_TK.long(), weights_TK
        acting = set(map(id, effective([rule for rule, _ in self._rows], spec)))
        for rule, rows_T in self._rows:
            if rule.kind.point == "selection" and id(rule) in acting:
                rows_T1 = _padded(rows_T, len(ids_TK)).unsqueeze(-1)
                ids, weights = apply_selection(rule, spec.layer, new_ids, new_weights, spec.num_experts)
                new_ids, new_weights = (
                    torch.where(rows_T1, ids, new_ids),
                    torch.where(rows_T1, weights, new_weights),
                )
        masked = self._masked.pop(number, None)
        if masked is not None:  # fewer than k experts were left
            gone_TK = masked.expand(len(new_ids), -1).gather(-1, new_ids.clamp(min=0)) & (new_ids >= 0)
            gone_TK = gone_TK & (self._any_rule(len(new_ids)).unsqueeze(-1))
            new_ids, new_weights = emptied(
                new_ids, new_weights, gone_TK, renormalise=self._normalises[number]
            )
        # A kernel takes no empty slot: it is computed with weight 0, for its row's best expert.
        best_T1 = new_weights.masked_fill(new_ids < 0, -torch.inf).argmax(-1, keepdim=True)
        executed = torch.where(new_ids < 0, new_ids.gather(-1, best_T1).clamp(min=0), new_ids)
        return new_weights.contiguous(), executed.to(ids_TK.dtype).contiguous(), new_ids

    def _any_rule(self, count: int) -> Tensor:
        return torch.stack([_padded(rows_T, count) for _, rows_T in self._rows]).any(0)


def _rows_of(request: StepRequest, span: PositionSpan, position_T: Tensor) -> Tensor:
    """(T,) bool: the request's rows that lie in a span."""
    row_T = torch.arange(len(position_T), device=position_T.device)
    rows_T = (row_T >= request.first) & (row_T < request.stop) & (position_T >= span.start)
    if span.stop is not None:
        rows_T &= position_T < span.stop
    if span.phase != "all":
        rows_T &= (position_T < request.prompt_length) == (span.phase == "prompt")
    return rows_T


def _padded(rows_T: Tensor, count: int) -> Tensor:
    """For a router that sees padding after the step's own rows."""
    if count < len(rows_T):
        raise SteeringError(f"a router saw {count} of the {len(rows_T)} rows of a step")
    return torch.nn.functional.pad(rows_T, (0, count - len(rows_T)))


def _needs_transformers(rule: Rule) -> bool:
    """Whether a rule asks for what the engine does not show: other logits, the tokens that were read, attention."""
    options = rule.options.get("theta") or rule.options.get("protect")
    return rule.kind.has_vector or rule.rechooses or rule.reads_tokens or bool(options)


def unsteerable(rules: Sequence[Rule], specs: Sequence[RouterSpec], corrected: Sequence[bool]) -> list[str]:
    """What of these rules can't be had inside vLLM, one sentence each.

    Args:
        corrected: by router, whether it chooses by more than its logits (a correction bias, groups of experts).
    """
    problems: list[str] = []
    for number, rule in enumerate(rules, start=1):
        if _needs_transformers(rule):
            problems.append(
                f"rule {number} ({rule.rule}): this kind of rule or option is not available with --engine vllm"
            )
        elif rule.kind.masks or rule.kind.forces or rule.kind.demotes:
            layers = [
                s.layer
                for s, c in zip(specs, corrected, strict=True)
                if c and rule.acts_in(s.layer, s.stream)
            ]
            if layers:
                problems.append(
                    f"rule {number} ({rule.rule}): in layer {layers[0]} vLLM chooses by more than the logits "
                    "(a correction bias or groups), so the rule can't be guaranteed there"
                )
    return problems
