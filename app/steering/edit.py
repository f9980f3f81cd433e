"""Edits of a steering by hand, as pure functions from rules to rules.

A switchboard shows one state a cell (`states`), and changes cells with a brush: a rule without layers and
experts (`paint`), or in turn off, on, neutral (`cycle`). Rules made by hand name one layer each; a loaded rule
over several layers or all experts is taken apart only where an edit touches it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from ...store import RouterSpec
from ...tracer.steering.check import is_neutral
from ...tracer.steering.rules import KINDS, Rule, Span

Cell = tuple[str, int, int]
"""(stream, layer, expert)."""
State = Literal["off", "on", "zero", "low", "up", "down"]
Rules = tuple[Rule, ...]

PER_EXPERT = tuple(name for name, kind in KINDS.items() if kind.experts)
WHOLE_LAYER = tuple(name for name, kind in KINDS.items() if not kind.experts and name != "vector")


def states(rules: Iterable[Rule], routers: Sequence[RouterSpec]) -> dict[Cell, State]:
    """What the rules do to each cell, in their order; cells without a key are neutral."""
    found: dict[Cell, State] = {}
    for spec in routers:
        for rule in rules:
            if rule.rule in PER_EXPERT and rule.acts_in(spec.layer, spec.stream):
                _act(rule, spec, found)
    return found


def _act(rule: Rule, spec: RouterSpec, found: dict[Cell, State]) -> None:
    if is_neutral(rule, spec):
        return
    named = range(spec.num_experts) if rule.experts is None else rule.experts
    if rule.rule == "keep_only":
        named = set(range(spec.num_experts)) - set(named)
    state = _state_of(rule, spec.layer)
    for expert in named:
        cell = (spec.stream, spec.layer, expert)
        # A masked expert is not chosen, whatever a later rule does to its logit or its weight.
        if expert < spec.num_experts and (found.get(cell) != "off" or state in ("off", "on")):
            found[cell] = state


def _state_of(rule: Rule, layer: int) -> State:
    if rule.rule == "keep_only":
        return "off"
    if rule.rule in ("bias", "scale"):
        amount = rule.amount_in(layer) or 0.0
        if rule.rule == "scale" and amount == 0:
            return "zero"
        return "up" if amount > (rule.rule == "scale") else "down"
    return rule.rule  # type: ignore[return-value]


def layer_rules(rules: Iterable[Rule], routers: Sequence[RouterSpec]) -> dict[tuple[str, int], list[str]]:
    """Names of the rules on whole layers that act in each (stream, layer)."""
    return {
        (spec.stream, spec.layer): names
        for spec in routers
        if (
            names := [
                rule.rule
                for rule in rules
                if rule.rule not in PER_EXPERT
                and rule.acts_in(spec.layer, spec.stream)
                and not is_neutral(rule, spec)
            ]
        )
    }


def cycle(
    rules: Rules, cells: Collection[Cell], routers: Sequence[RouterSpec], span: Span | None = None
) -> Rules:
    """Cells one state further: neutral (or anything else) → off → on → neutral, all as the first of them."""
    now = states(rules, routers)
    before = now.get(next(iter(cells)))
    following = {"off": "on", "on": None}.get(before or "", "off")
    if following is None:
        return erase(rules, cells, routers)
    amount = KINDS[following].defaults.get("amount")
    brush = Rule(following, amount=amount, span=span or Span())
    return paint(rules, cells, brush, routers)


def paint(rules: Rules, cells: Collection[Cell], brush: Rule, routers: Sequence[RouterSpec]) -> Rules:
    """Put cells under the brush's rule instead of what they were under; where all of them are already, take it
    away again."""
    if all(_under(rules, cell, brush) for cell in cells):
        return erase(rules, cells, routers, brush.rule)
    rules = erase(rules, cells, routers)
    for (stream, layer), experts in _by_layer(cells).items():
        rules = _added(rules, replace(brush, stream=stream, layers=(layer,), experts=tuple(sorted(experts))))
    return rules


def erase(rules: Rules, cells: Collection[Cell], routers: Sequence[RouterSpec], kept_only: str = "") -> Rules:
    """Take cells out of all rules on experts. A `keep_only` would mask a cell that is taken out of it, so
    it is left alone unless `kept_only` names it."""
    wanted = _by_layer(cells)
    result: list[Rule] = []
    for rule in rules:
        if rule.rule not in PER_EXPERT or (rule.rule == "keep_only" and kept_only != "keep_only"):
            result.append(rule)
        else:
            result += _without(rule, wanted, routers)
    return tuple(result)


def _without(
    rule: Rule, wanted: dict[tuple[str, int], set[int]], routers: Sequence[RouterSpec]
) -> list[Rule]:
    """A rule without some cells: itself where it has none of them, else one rule a layer."""
    pieces, touched = [], False
    for spec in routers:
        if not rule.acts_in(spec.layer, spec.stream):
            continue
        named = set(range(spec.num_experts)) if rule.experts is None else set(rule.experts)
        gone = named & wanted.get((spec.stream, spec.layer), set())
        touched |= bool(gone)
        if left := sorted(named - gone):
            pieces.append(replace(rule, stream=spec.stream, layers=(spec.layer,), experts=tuple(left)))
    return pieces if touched else [rule]


def _under(rules: Rules, cell: Cell, brush: Rule) -> bool:
    stream, layer, expert = cell
    return any(
        _alike(rule, brush)
        and rule.acts_in(layer, stream)
        and (rule.experts is None or expert in rule.experts)
        for rule in rules
    )


def _added(rules: Rules, new: Rule) -> Rules:
    """The rules with a new one, joined to one of the same kind in the same layer where there is one."""
    for number, rule in enumerate(rules):
        same_place = (rule.stream, rule.layers) == (new.stream, new.layers)
        if same_place and _alike(rule, new) and rule.experts is not None and new.experts is not None:
            joined = replace(rule, experts=tuple(sorted({*rule.experts, *new.experts})))
            return (*rules[:number], joined, *rules[number + 1 :])
    return (*rules, new)


def _alike(a: Rule, b: Rule) -> bool:
    """Whether two rules do the same, wherever they do it."""
    return (a.rule, a.amount, a.span, dict(a.options)) == (b.rule, b.amount, b.span, dict(b.options))


def _by_layer(cells: Iterable[Cell]) -> dict[tuple[str, int], set[int]]:
    found: dict[tuple[str, int], set[int]] = {}
    for stream, layer, expert in cells:
        found.setdefault((stream, layer), set()).add(expert)
    return dict(sorted(found.items()))


def groups(rules: Rules) -> list[list[int]]:
    """Numbers of rules that a reader takes as one: neighbours that do the same in different layers."""
    found: list[list[int]] = []
    for number, rule in enumerate(rules):
        if found and rule.rule in PER_EXPERT and _alike(rules[found[-1][-1]], rule):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def without(rules: Rules, numbers: Collection[int]) -> Rules:
    """The rules but for some, by number from 0."""
    return tuple(rule for number, rule in enumerate(rules) if number not in numbers)
