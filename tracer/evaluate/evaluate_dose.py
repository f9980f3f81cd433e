"""The steerings of a dose curve: the same rules weaker and stronger, and random draws beside each.

A dose is a number of experts from the top of a ranking, or the amount of the rules (λ, β, τ). Each dose is a variant of
an evaluation, named by the dose; a draw of random experts at that dose is named "4 random 1" (`evaluate_curve`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...store.schema import RouterSpec
from ..steering.profile import Steering
from .controls import Kind, make_controls
from .dose import name_of

RuleJson = Mapping[str, Any]
Make = Callable[[Any], Steering]


def doses_of_experts(rule: RuleJson, ranking: Sequence[tuple[int, int]]) -> Make:
    """Dose → the rule on that many of the first (layer, expert) pairs of a ranking."""

    def make(count: float) -> Steering:
        by_layer: dict[int, list[int]] = defaultdict(list)
        for layer, expert in ranking[: int(count)]:
            by_layer[layer].append(expert)
        base = {name: value for name, value in rule.items() if name not in ("layers", "experts")}
        rules = [{**base, "layers": [layer], "experts": by_layer[layer]} for layer in sorted(by_layer)]
        return Steering(rules, name=f"{rule['rule']} top {count:g}")

    return make


def doses_of_amount(steering: Steering) -> Make:
    """Dose → the same rules with this amount, in all rules that have one."""

    def make(amount: float) -> Steering:
        rules = [rule.to_json() for rule in steering.rules]
        changed = [{**rule, "amount": amount} if "amount" in rule else rule for rule in rules]
        return Steering(changed, name=f"{steering.name} at {amount:g}".strip(), model=steering.model)

    return make


def cells_of(steering: Steering) -> list[tuple[int, int]]:
    """(layer, expert) pairs that a profile names, rule by rule; rules keep theirs sorted by number."""
    return [
        (layer, expert)
        for rule in steering.rules
        for layer in rule.layers or ()
        for expert in rule.experts or ()
    ]


def dose_variants(
    make: Make, doses: Sequence[float], routers: Sequence[RouterSpec], *, draws: int = 0, seed: int = 0
) -> dict[str, tuple[Kind, Steering]]:
    """Each dose, and as many draws of other experts of the same layers beside it."""
    found: dict[str, tuple[Kind, Steering]] = {}
    for dose in doses:
        steering = make(dose)
        found[name_of(dose)] = ("dose", steering)
        controls, _ = make_controls(steering, routers, draws=draws, seed=seed) if steering else ([], [])
        drawn = [control for control in controls if control.kind == "random"]
        for number, control in enumerate(drawn, start=1):
            found[name_of(dose, number)] = ("dose", control.steering)
    return found
