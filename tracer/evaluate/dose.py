"""A dose curve: effect and side effect of the same steering weaker and stronger, beside random draws.

A dose is a number of experts from the top of a ranking, or the amount of the rules (λ, β, τ). Each dose is a variant of
an evaluation, named by the dose; a draw of random experts at that dose is named "4 random 1".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.response_classes import Rules
from ...store.schema import RouterSpec
from ..steering.profile import Steering
from .controls import ControlKind, make_controls
from .effects import ALL, LOG, Evaluation

Make = Callable[[Any], Steering]
_NAME = re.compile(r"(?P<dose>-?[0-9.e+-]+)(?: random (?P<draw>[0-9]+))?")


def name_of(dose: float, draw: int | None = None) -> str:
    """The variant that is this dose, or one of its random draws."""
    return f"{dose:g}" if draw is None else f"{dose:g} random {draw}"


def dose_of(name: str) -> tuple[float, int | None] | None:
    """Dose and number of the draw (None: the steering itself) of a variant's name; None where it names no dose."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        return float(found["dose"]), int(found["draw"]) if found["draw"] else None
    except ValueError:
        return None


def doses_of_experts(rule: Mapping[str, Any], ranking: Sequence[tuple[int, int]]) -> Make:
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
) -> dict[str, tuple[ControlKind, Steering]]:
    """Each dose, and as many draws of other experts of the same layers beside it."""
    found: dict[str, tuple[ControlKind, Steering]] = {}
    for dose in doses:
        steering = make(dose)
        found[name_of(dose)] = ("dose", steering)
        controls, _ = make_controls(steering, routers, draws=draws, seed=seed) if steering else ([], [])
        drawn = [control for control in controls if control.kind == "random"]
        for number, control in enumerate(drawn, start=1):
            found[name_of(dose, number)] = ("dose", control.steering)
    return found


def dose_table(
    evaluation: Evaluation,
    by: str | None = None,
    *,
    target: str | None = None,
    effect: str = LOG,
    side: str | None = None,
    classes: Rules | None = None,
) -> pa.Table:
    """Effect and side effect at every dose.

    Args:
        by, target: the effect is that on the prompts with this value, the side effect that on all others
            together. Without a target both are of all prompts.
        effect: a measure of `Evaluation.effects`.
        side: another for the side effect; the same where there is a target, else "kl".
        classes: response classes, where a measure is a behaviour.
    Returns:
        dose, draw (null: the steering itself), role ("effect" or "side effect"), measure, group, change, low,
        high (95 %), units; by dose.
    """
    all_P = np.ones(len(evaluation.prompt_ids), bool)
    mine_P = all_P if target is None else evaluation.mask(by, target)
    roles = [
        ("effect", effect, target or ALL, mine_P),
        ("side effect", side or ("kl" if target is None else effect), "others" if target else ALL,
         all_P if target is None else ~mine_P),
    ]  # fmt: skip
    rows = []
    for variant in evaluation.variants:
        known = dose_of(variant) if evaluation.kinds[variant] == "dose" else None
        if known is None:
            continue
        for role, measure, group, chosen_P in roles:
            interval = evaluation.interval(variant, measure, chosen_P, classes)
            numbers = {"change": interval.point, "low": interval.low, "high": interval.high}
            rows.append(
                {"dose": known[0], "draw": known[1], "role": role, "measure": measure, "group": group}
                | {name: float(value) for name, value in numbers.items()} | {"units": int(interval.units)}
            )  # fmt: skip
    rows.sort(key=lambda row: (row["dose"], row["draw"] or 0, row["role"]))
    return pa.Table.from_pylist(rows, DOSES)


DOSES = pa.schema(
    [
        ("dose", pa.float64()),
        ("draw", pa.int64()),
        ("role", pa.string()),
        ("measure", pa.string()),
        ("group", pa.string()),
        ("change", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("units", pa.int64()),
    ]
)
