"""The controls of a steering: the same rules on other experts, in other layers, and with the opposite sign.

A profile that does something may do no more than any disturbance of that size would. Each control is a
profile of the same form, so that it can be run, saved and shared like the one that it belongs to.

Works on profiles as JSON (`Steering.to_json`); `routers` are the specs of the model that they are for.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..store.schema import RouterSpec

Rule = dict[str, Any]
Kind = Literal["random", "layers", "opposite"]

SWAPPED = {"off": "on", "on": "off", "low": "on", "keep_only": "off"}
MIN_DRAWS = 5
"""Random draws below which nothing is called a finding."""


@dataclass(frozen=True)
class Control:
    """A profile to compare with, and how it was made."""

    name: str
    kind: Kind
    profile: dict[str, Any]
    note: str = ""
    """Where it falls short of its definition."""


def make_controls(
    profile: dict[str, Any], routers: Sequence[RouterSpec], *, draws: int = MIN_DRAWS, seed: int = 0
) -> tuple[list[Control], list[str]]:
    """The controls of a profile, and a sentence for each kind that this profile cannot have.

    random: in every layer the steered experts are replaced by as many others of that layer (by any, where the
        layer has too few); the same replacement in all rules of the profile.
    layers: every steered layer's rules act in a layer that the profile leaves alone, on the same numbers.
    opposite: off ↔ on, low → on, keep_only → off, bias and vector negated, scale and temperature inverted.
    """
    experts_of = {spec.layer: spec.num_experts for spec in routers if spec.stream == "decoder"}
    rules = [piece for rule in profile["rules"] for piece in split_by_layer(rule, sorted(experts_of))]
    controls: list[Control] = []
    missing: list[str] = []
    steered = steered_experts(rules, experts_of)
    if any(0 < len(chosen) < experts_of[layer] for layer, chosen in steered.items()):
        controls += [
            Control(
                f"random {draw + 1}",
                "random",
                _with(profile, _relabelled(rules, steered, experts_of, seed + draw)),
            )
            for draw in range(draws)
        ]
    else:
        missing.append("no random experts: the profile does not choose among the experts of a layer")
    moved, note = _moved(rules, experts_of)
    if moved:
        controls.append(Control("other layers", "layers", _with(profile, moved), note))
    else:
        missing.append(f"no other layers: {note}")
    turned = [opposite(rule) for rule in rules]
    if all(rule is not None for rule in turned):
        controls.append(Control("opposite", "opposite", _with(profile, [rule for rule in turned if rule])))
    else:
        kinds = sorted({rule["rule"] for rule, other in zip(rules, turned, strict=True) if other is None})
        missing.append(f"no opposite sign: there is none of {', '.join(kinds)}")
    return controls, missing


def split_by_layer(rule: Rule, layers: Sequence[int]) -> list[Rule]:
    """A rule as one rule a layer, "all" layers spelled out."""
    wanted = layers if rule.get("layers", "all") == "all" else rule["layers"]
    return [{**rule, "layers": [layer]} for layer in wanted]


def steered_experts(rules: Sequence[Rule], experts_of: dict[int, int]) -> dict[int, set[int]]:
    """Layer → the experts that rules of one layer each name there; empty for rules on whole layers."""
    chosen: dict[int, set[int]] = defaultdict(set)
    for rule in rules:
        layer, experts = rule["layers"][0], rule.get("experts", "all")
        chosen[layer] |= set(range(experts_of[layer])) if experts == "all" else set(experts)
    return dict(chosen)


def opposite(rule: Rule) -> Rule | None:
    """The rule that pushes the other way, or None where there is no such thing."""
    kind, amount = rule["rule"], rule.get("amount")
    if kind in SWAPPED:
        return {**rule, "rule": SWAPPED[kind]}
    if kind == "zero":
        kept = {name: value for name, value in rule.items() if name != "renormalise"}
        return {**kept, "rule": "scale", "amount": 2.0}
    if kind == "bias" and amount is not None:
        return {**rule, "amount": -amount}
    if kind in ("scale", "temperature") and amount:
        return {**rule, "amount": 1 / amount}
    return None


def _with(profile: dict[str, Any], rules: Sequence[Rule]) -> dict[str, Any]:
    return {**profile, "rules": list(rules)}


def _relabelled(
    rules: Sequence[Rule], steered: dict[int, set[int]], experts_of: dict[int, int], seed: int
) -> list[Rule]:
    """The rules with every layer's steered experts replaced by random ones."""
    rng = random.Random(seed)
    labels = {
        layer: _replacements(chosen, experts_of[layer], rng) for layer, chosen in sorted(steered.items())
    }
    return [
        rule
        if rule.get("experts", "all") == "all"
        else {**rule, "experts": [labels[rule["layers"][0]][expert] for expert in rule["experts"]]}
        for rule in rules
    ]


def _replacements(chosen: set[int], num_experts: int, rng: random.Random) -> dict[int, int]:
    others = [expert for expert in range(num_experts) if expert not in chosen]
    pool = others if len(others) >= len(chosen) else list(range(num_experts))
    return dict(zip(sorted(chosen), rng.sample(pool, len(chosen)), strict=True))


def _moved(rules: Sequence[Rule], experts_of: dict[int, int]) -> tuple[list[Rule], str]:
    """The rules in layers that they leave alone, evenly spread over those, and what is wrong with that."""
    steered = sorted({rule["layers"][0] for rule in rules})
    free = [layer for layer in sorted(experts_of) if layer not in steered]
    if not free or not steered:
        return [], "the profile acts in every layer"
    step = max(1.0, len(free) / len(steered))
    target = {layer: free[int(i * step)] for i, layer in enumerate(steered[: len(free)])}
    moved = [{**rule, "layers": [target[rule["layers"][0]]]} for rule in rules if rule["layers"][0] in target]
    if any(expert >= experts_of[rule["layers"][0]] for rule in moved for expert in _named(rule)):
        return [], "the layers have different numbers of experts"
    short = f"only {len(free)} of {len(steered)} layers could be moved" if len(free) < len(steered) else ""
    return moved, short


def _named(rule: Rule) -> list[int]:
    experts = rule.get("experts", "all")
    return [] if experts == "all" else list(experts)
