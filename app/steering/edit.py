"""Edits of a steering by hand, as pure functions from rules to rules.

A switchboard shows one state a cell (`states`), and changes cells with a brush: a rule without layers and
experts (`paint`), or in turn off, on, neutral (`cycle`). Rules made by hand name one layer each; a loaded rule
over several layers or all experts is taken apart only where an edit touches it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ...store.schema import Cell, RouterKey, RouterSpec
from ...tracer.steering.kind import Mark, Place
from ...tracer.steering.rules import KINDS, Rule, is_neutral
from ...tracer.steering.span import PositionSpan

State = Mark
Rules = tuple[Rule, ...]


def made_at(place: Place) -> tuple[str, ...]:
    """Names of the rules that one place of the Steer page makes."""
    return tuple(name for name, kind in KINDS.items() if kind.place == place)


def states(rules: Iterable[Rule], routers: Sequence[RouterSpec]) -> dict[Cell, State]:
    """What the rules do to each cell, in their order; cells without a key are neutral."""
    found: dict[Cell, State] = {}
    for spec in routers:
        for rule in rules:
            if rule.kind.mark and rule.acts_in(spec.layer, spec.stream):
                _act(rule, spec, found)
    return found


def _act(rule: Rule, spec: RouterSpec, found: dict[Cell, State]) -> None:
    if is_neutral(rule, spec) or rule.kind.mark is None or rule.on_pairs:
        return
    named = range(spec.num_experts) if rule.experts is None else rule.experts
    if rule.kind.masks == "others":
        named = set(range(spec.num_experts)) - set(named)
    state = rule.kind.mark(rule.amount_in(spec.layer) or 0.0)
    for expert in named:
        cell = Cell(spec.stream, spec.layer, expert)
        # A masked expert is not chosen, whatever a later rule does to its logit or its weight.
        if expert < spec.num_experts and (found.get(cell) != "off" or state in ("off", "on")):
            found[cell] = state


def layer_rules(rules: Iterable[Rule], routers: Sequence[RouterSpec]) -> dict[RouterKey, list[str]]:
    """Names of the rules on whole layers that act in each (stream, layer)."""
    return {
        spec.key: names
        for spec in routers
        if (
            names := [
                rule.rule
                for rule in rules
                if not rule.kind.experts
                and rule.acts_in(spec.layer, spec.stream)
                and not is_neutral(rule, spec)
            ]
        )
    }


def cycle(
    rules: Rules, cells: Collection[Cell], routers: Sequence[RouterSpec], span: PositionSpan | None = None
) -> Rules:
    """Cells one state further: neutral (or anything else) → off → on → neutral, all as the first of them."""
    now = states(rules, routers)
    before = now.get(next(iter(cells)))
    following = {"off": "on", "on": None}.get(before or "", "off")
    if following is None:
        return erase(rules, cells, routers)
    number = KINDS[following].number
    brush = Rule(following, amount=number and number.default, span=span or PositionSpan())
    return paint(rules, cells, brush, routers)


def paint(rules: Rules, cells: Collection[Cell], brush: Rule, routers: Sequence[RouterSpec]) -> Rules:
    """Put cells under the brush's rule instead of what they were under; where all of them are already, take it
    away again."""
    if all(_under(rules, cell, brush) for cell in cells):
        return erase(rules, cells, routers, brush.kind.masks == "others")
    rules = erase(rules, cells, routers)
    for (stream, layer), experts in _by_layer(cells).items():
        rules = _added(rules, replace(brush, stream=stream, layers=(layer,), experts=tuple(sorted(experts))))
    return rules


def erase(
    rules: Rules, cells: Collection[Cell], routers: Sequence[RouterSpec], kept_too: bool = False
) -> Rules:
    """Take cells out of all rules on experts. A rule that masks all others (`keep_only`) would mask a cell that is
    taken out of it, so it is left alone unless `kept_too`."""
    wanted = _by_layer(cells)
    result: list[Rule] = []
    for rule in rules:
        if not rule.kind.experts or (rule.kind.masks == "others" and not kept_too):
            result.append(rule)
        else:
            result += _without(rule, wanted, routers)
    return tuple(result)


def _without(rule: Rule, wanted: dict[RouterKey, set[int]], routers: Sequence[RouterSpec]) -> list[Rule]:
    """A rule without some cells: itself where it has none of them, else one rule a layer."""
    pieces, touched = [], False
    for spec in routers:
        if not rule.acts_in(spec.layer, spec.stream):
            continue
        named = set(range(spec.num_experts)) if rule.experts is None else set(rule.experts)
        gone = named & wanted.get(spec.key, set())
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


def _by_layer(cells: Iterable[Cell]) -> dict[RouterKey, set[int]]:
    found: dict[RouterKey, set[int]] = {}
    for cell in cells:
        found.setdefault(cell.router, set()).add(cell.expert)
    return dict(sorted(found.items()))


def groups(rules: Rules) -> list[list[int]]:
    """Numbers of rules that a reader takes as one: neighbours that do the same in different layers."""
    found: list[list[int]] = []
    for number, rule in enumerate(rules):
        if found and rule.kind.experts and _alike(rules[found[-1][-1]], rule):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def without(rules: Rules, numbers: Collection[int]) -> Rules:
    """The rules but for some, by number from 0."""
    return tuple(rule for number, rule in enumerate(rules) if number not in numbers)
