"""The controls of a steering: the same rules on other experts, in other layers, and with the opposite sign.

A profile that does something may do no more than any disturbance of that size would. Each control is a
profile of the same form, so that it can be run, saved and shared like the one that it belongs to.

Works on the rules as JSON, in the canonical form of `Steering.to_json`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...store.amount import amount
from ...store.schema import RouterSpec
from ..steering.check import problems_with
from ..steering.kind import RuleJson
from ..steering.profile import Steering
from ..steering.rules import KINDS, opposite
from .finding import MIN_DRAWS

ControlKind = Literal["profile", "random", "layers", "opposite", "dose"]


@dataclass(frozen=True)
class Control:
    """A steering to compare with, and how it was made."""

    name: str
    kind: ControlKind
    steering: Steering


def make_controls(
    steering: Steering, routers: Sequence[RouterSpec], *, draws: int = MIN_DRAWS, seed: int = 0
) -> tuple[list[Control], list[str]]:
    """The controls of a steering, and a sentence for each kind that it cannot have, or not fully.

    random: in every layer the steered experts are replaced by as many others of that layer (by any, where the
        layer has too few); the same replacement in all rules of the profile. A vector is shuffled.
    layers: every steered layer's rules act in a layer that the profile leaves alone, on the same numbers; where
        too few are left alone, all layers change places in a circle, by the step that hits fewest steered experts.
    opposite: off ↔ on, low → on, keep_only → off, zero → twice the weight, bias and vector negated, scale and
        temperature inverted. Of more experts than a token uses only the first k can be on.
    """
    experts_of = {spec.layer: spec.num_experts for spec in routers if spec.stream == "decoder"}
    rules = split_by_layer(steering, sorted(experts_of))
    controls: list[Control] = []
    notes: list[str] = []

    def add(name: str, kind: ControlKind, changed: Sequence[RuleJson] | str) -> None:
        problem = changed if isinstance(changed, str) else ""
        if not isinstance(changed, str):
            control = Steering(changed, name=f"{steering.name} ({name})".strip(), model=steering.model)
            problem = "; ".join(problems_with(control.rules, routers))
            if not problem:
                controls.append(Control(name, kind, control))
        if problem:
            notes.append(f"no control {name!r}: {problem}")

    steered = steered_experts(rules)
    shuffled = any(KINDS[rule["rule"]].control == "shuffled vector" for rule in rules)
    if not shuffled and not any(len(chosen) < experts_of[layer] for layer, chosen in steered.items()):
        notes.append("no control 'random': the profile does not choose among the experts of a layer")
    else:
        for draw in range(draws):
            add(f"random {draw + 1}", "random", _drawn(rules, steered, experts_of, seed + draw))
    moved, note = _moved(rules, experts_of)
    add("other layers", "layers", moved or note)
    if moved and note:
        notes.append(note)
    turned = [opposite(rule) for rule in rules]
    without = sorted({rule["rule"] for rule, other in zip(rules, turned, strict=True) if other is None})
    used = {spec.layer: spec.top_k or spec.num_experts for spec in routers if spec.stream == "decoder"}
    opposites, note = _at_most_k_on([rule for rule in turned if rule is not None], used)
    add("opposite", "opposite", f"{', '.join(without)} has no opposite" if without else opposites)
    if note and not without:
        notes.append(note)
    return controls, notes


def split_by_layer(steering: Steering, layers: Sequence[int]) -> list[RuleJson]:
    """The rules as one rule a layer, "all" layers spelled out; rules for other streams are left out."""
    found: list[RuleJson] = []
    for rule in steering.rules:
        if rule.stream not in ("decoder", "all"):
            continue
        for layer in layers if rule.layers is None else rule.layers:
            data = {**rule.to_json(), "layers": [layer]}
            if rule.kind.has_vector:
                vector = rule.vector_in(layer)
                if vector is None:
                    continue
                data["vector"] = [float(value) for value in vector]
            found.append(data)
    return found


def steered_experts(rules: Sequence[RuleJson]) -> dict[int, set[int]]:
    """Layer → the experts that rules of one layer each name there."""
    chosen: dict[int, set[int]] = defaultdict(set)
    for rule in rules:
        if rule["experts"] != "all":
            chosen[rule["layers"][0]] |= set(rule["experts"])
    return dict(chosen)


def _at_most_k_on(rules: Sequence[RuleJson], used: dict[int, int]) -> tuple[list[RuleJson], str]:
    """The rules with no more experts on in a layer than a token uses, and how many were left out for that."""
    room, kept, left_out = dict(used), [], 0
    for rule in rules:
        if not KINDS[rule["rule"]].forces or rule["experts"] == "all":
            kept.append(rule)
            continue
        layer = rule["layers"][0]
        first = rule["experts"][: room[layer]]
        room[layer] -= len(first)
        left_out += len(rule["experts"]) - len(first)
        kept += [{**rule, "experts": first}] if first else []
    note = f"control 'opposite': without {amount(left_out, 'expert')}, because a token can't use more at once"
    return kept, note if left_out else ""


def _drawn(
    rules: Sequence[RuleJson], steered: dict[int, set[int]], experts_of: dict[int, int], seed: int
) -> list[RuleJson]:
    """The rules with every layer's steered experts replaced by random ones."""
    rng = random.Random(seed)
    labels = {
        layer: _replacements(chosen, experts_of[layer], rng) for layer, chosen in sorted(steered.items())
    }
    return [_relabelled(rule, labels.get(rule["layers"][0], {}), rng) for rule in rules]


def _relabelled(rule: RuleJson, labels: dict[int, int], rng: random.Random) -> RuleJson:
    if KINDS[rule["rule"]].control == "shuffled vector":
        return {**rule, "vector": rng.sample(rule["vector"], len(rule["vector"]))}
    if rule["experts"] == "all":
        return rule
    return {**rule, "experts": [labels[expert] for expert in rule["experts"]]}


def _replacements(chosen: set[int], num_experts: int, rng: random.Random) -> dict[int, int]:
    others = [expert for expert in range(num_experts) if expert not in chosen]
    pool = others if len(others) >= len(chosen) else list(range(num_experts))
    return dict(zip(sorted(chosen), rng.sample(pool, len(chosen)), strict=True))


def _moved(rules: Sequence[RuleJson], experts_of: dict[int, int]) -> tuple[list[RuleJson], str]:
    """The rules in other layers, and what is to be said about that."""
    steered = sorted({rule["layers"][0] for rule in rules})
    free = [layer for layer in sorted(experts_of) if layer not in steered]
    if len(free) < len(steered):
        return _rotated(rules, experts_of)
    step = max(1.0, len(free) / max(1, len(steered)))
    target = {layer: free[int(i * step)] for i, layer in enumerate(steered)}
    return [{**rule, "layers": [target[rule["layers"][0]]]} for rule in rules], ""


def _rotated(rules: Sequence[RuleJson], experts_of: dict[int, int]) -> tuple[list[RuleJson], str]:
    """Every layer's rules some layers on, in a circle; the step that hits fewest of the steered experts."""
    layers, hit = sorted(experts_of), _cells(rules)
    place = {layer: number for number, layer in enumerate(layers)}
    best: list[RuleJson] = []
    overlap, chosen = len(hit) + 1, 0
    for step in range(1, len(layers)):
        moved = [
            {**rule, "layers": [layers[(place[rule["layers"][0]] + step) % len(layers)]]} for rule in rules
        ]
        shared = len(_cells(moved) & hit)
        if shared < overlap and not _same_rules(moved, rules):
            best, overlap, chosen = moved, shared, step
    if not best:
        return [], "the profile is the same in every layer"
    note = f"control 'other layers': most layers are steered, so the layers change places, {chosen} on"
    return best, note + (f"; both steer {amount(overlap, 'expert')} in common" if overlap else "")


def _cells(rules: Sequence[RuleJson]) -> set[tuple[int, int]]:
    """(layer, expert) pairs that the rules name."""
    return {(rule["layers"][0], e) for rule in rules if rule["experts"] != "all" for e in rule["experts"]}


def _same_rules(one: Sequence[RuleJson], other: Sequence[RuleJson]) -> bool:
    """Whether two lists of rules of one layer each do the same."""
    keyed = [sorted(repr(sorted(rule.items())) for rule in rules) for rules in (one, other)]
    return keyed[0] == keyed[1]
