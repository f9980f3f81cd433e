"""Whether rules fit a model, and which of them would change anything there."""

from __future__ import annotations

from collections.abc import Sequence

from ...store.schema import RouterSpec
from ..errors import SteeringError
from ..routers.scoring import SCORING
from .recorded import recorded
from .rules import Rule, is_neutral
from .slot_mask import slot_mask
from .theta import thetas


def effective(rules: Sequence[Rule], spec: RouterSpec) -> list[Rule]:
    """The rules that change something at this router; a rule for all layers passes over routers whose logits
    cannot be edited."""
    acting = [rule for rule in rules if rule.acts_in(spec.layer, spec.stream)]
    # A choice made anew may give a token more experts than k, so that a limit on ranks has something to do.
    wider = any(rule.rechooses for rule in acting)
    return [
        rule
        for rule in acting
        if (spec.steerable or rule.kind.point == "selection")
        and (not is_neutral(rule, spec) or (wider and rule.kind.limits_ranks))
    ]


def problems_with(rules: Sequence[Rule], specs: Sequence[RouterSpec]) -> list[str]:
    """What does not fit, one sentence each, with the number of the rule from 1."""
    problems: list[str] = []
    given = [rule.number for rule in rules]
    # Sums of profiles, and rules that were added since, have numbers of several profiles: then it is their place here.
    of_one_profile = all(given) and given == sorted(given)
    for number, rule in zip(given if of_one_profile else range(1, len(given) + 1), rules, strict=True):
        problems += [f"rule {number} ({rule.rule}): {text}" for text in _problems(rule, specs)]
    for spec in specs:
        problems += _problems_together(
            [rule for rule in rules if rule.acts_in(spec.layer, spec.stream)], spec
        )
    return problems


def _problems(rule: Rule, specs: Sequence[RouterSpec]) -> list[str]:
    there = {spec.layer: spec for spec in specs if rule.stream in (spec.stream, "all")}
    if not there:
        streams = ", ".join(sorted({spec.stream for spec in specs}))
        return [f"this model has no routers of the stream {rule.stream!r} (it has: {streams})"]
    if broken := _unreadable(rule):
        return [broken]
    problems: list[str] = []
    unfit: dict[str, list[int]] = {}
    if missing := [layer for layer in rule.layers or () if layer not in there]:
        problems.append(
            f"no router in layer {_listed(missing)} (there are routers in layer {_listed(there)})"
        )
    for layer, spec in there.items():
        if not rule.acts_in(layer, spec.stream):
            continue
        if beyond := [expert for expert in rule.experts or () if expert >= spec.num_experts]:
            problems.append(f"no expert {_listed(beyond)} in layer {layer}, which has {spec.num_experts}")
        if is_neutral(rule, spec):
            continue
        if problem := _unfit_source(rule, spec):
            unfit.setdefault(problem, []).append(layer)
        else:
            problems += _cannot_act(rule, spec)
    return problems + [
        f"layer{'s' if len(layers) > 1 else ''} {_listed(layers)}: {problem}"
        for problem, layers in unfit.items()
    ]


def _cannot_act(rule: Rule, spec: RouterSpec) -> list[str]:
    layer = spec.layer
    if rule.kind.number is not None and rule.amount_in(layer) is None:
        return [f"no ratio for layer {layer}: give mu, or the medians of a trace (median_ratios)"]
    if (
        rule.kind.has_vector
        and (vector := rule.vector_in(layer)) is not None
        and len(vector) != spec.num_experts
    ):
        return [f"a vector of {len(vector)} numbers for layer {layer}, which has {spec.num_experts} experts"]
    if rule.on_pairs and spec.stream != "rows":
        return [f"layer {layer}: columns: only product keys have pairs, at the stream rows"]
    if rule.rechooses and spec.scoring not in SCORING:
        return [f"the scoring function of layer {layer} is not known"]
    if rule.kind.point == "logits" and not spec.steerable and rule.layers is not None:
        return [f"the logits of layer {layer} cannot be edited. {spec.note}".rstrip()]
    return []


def _unreadable(rule: Rule) -> str | None:
    """Why the trace or the file of a rule cannot be read, whatever the layer."""
    options = rule.options
    try:
        if rule.kind.replays:
            recorded(options["trace"])
        elif rule.kind.masks_slots:
            slot_mask(options["mask"], options["trace"])
        elif path := options.get("theta"):
            thetas(path)
    except SteeringError as error:
        return str(error)
    return None


def _unfit_source(rule: Rule, spec: RouterSpec) -> str | None:
    """What the trace or the file of a rule lacks for a router."""
    if rule.kind.replays:
        return _cannot_replay(rule, spec)
    if rule.kind.masks_slots:
        return slot_mask(rule.options["mask"], rule.options["trace"]).problem(spec)
    return thetas(path).problem(spec) if (path := rule.options.get("theta")) else None


def _cannot_replay(rule: Rule, spec: RouterSpec) -> str | None:
    live = rule.options["weights"] == "live"
    if live and spec.scoring not in SCORING:
        return "the router's scores are not known; take weights: recorded"
    return recorded(rule.options["trace"]).problem(spec, weights=not live)


def _problems_together(rules: Sequence[Rule], spec: RouterSpec) -> list[str]:
    """What rules that each make sense do together in one layer, for some token."""
    everyone = frozenset(range(spec.num_experts))
    masked: frozenset[int] = frozenset()
    forced: frozenset[int] = frozenset()
    for rule in rules:
        named = everyone if rule.experts is None else everyone & frozenset(rule.experts)
        if rule.kind.masks:
            gone = named if rule.kind.masks == "named" else everyone - named
            masked, forced = masked | gone, forced - gone
        elif rule.kind.forces:
            masked, forced = masked - named, forced | named
        elif rule.kind.demotes:
            forced = forced - named
    where = f"in layer {spec.layer} ({spec.stream})"
    if masked == everyone:
        return [f"no expert is left {where}"]
    if spec.top_k is not None and len(forced) > spec.top_k:
        return [f"{len(forced)} experts are on {where}, but a token uses {spec.top_k}"]
    return []


def _listed(numbers: object) -> str:
    values = sorted(numbers)  # type: ignore[call-overload]
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ... {values[-1]}" if len(values) > 9 else ", ".join(map(str, values))
