"""Makes rules from JSON, forgiving in names and strict in values.

`layers` and `experts` may be one number, a list or "all"; `experts` may also map layers to lists. Amounts may
be given as `amount` or by the names that `steering_rules.KINDS` lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import SteeringError
from .rules import KINDS, Amount, Kind, Rule, Span

NO_AMOUNT = ("off", "zero", "low", "keep_only", "vector")
OTHER_NAMES = {"layer": "layers", "expert": "experts", "type": "rule", "kind": "rule"}
COMMON = ("rule", "layers", "experts", "stream", "span", "note")


def read_rules(data: Iterable[Any]) -> tuple[Rule, ...]:
    """Rules from JSON values or `Rule`s; `experts` by layer becomes one rule a layer.

    Raises:
        SteeringError: naming the rule by its number and what is wrong with it.
    """
    rules: list[Rule] = []
    for number, value in enumerate(data, start=1):
        try:
            rules += [value] if isinstance(value, Rule) else _read(value)
        except SteeringError as error:
            name = value.get("rule") if isinstance(value, Mapping) else None
            called = f" ({name})" if isinstance(name, str) and name in KINDS else ""
            raise SteeringError(f"rule {number}{called}: {error}") from None
    return tuple(rules)


def _read(value: Any) -> list[Rule]:
    if not isinstance(value, Mapping):
        raise SteeringError(f"a rule is an object with a field rule, not {value!r}")
    data = {OTHER_NAMES.get(str(name), str(name)): item for name, item in value.items()}
    name = data.get("rule")
    if not isinstance(name, str) or name not in KINDS:
        raise SteeringError(f"there is no rule {name!r}; there are {', '.join(KINDS)}")
    fields = _canonical(name, data)
    experts = fields.pop("experts", "all" if not KINDS[name].experts else None)
    if isinstance(experts, Mapping):
        by_layer = {_whole(layer, "layers"): chosen for layer, chosen in experts.items()}
        if data.get("layers", "all") != "all":
            raise SteeringError("give either layers, or experts by layer")
        return [_rule(name, fields | {"layers": [layer]}, chosen) for layer, chosen in by_layer.items()]
    if experts is None:
        raise SteeringError(f"{name} needs experts: a list of numbers, or all")
    return [_rule(name, fields, experts)]


def _canonical(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rule under their own names."""
    kind = KINDS[name]
    aliases = {other: own for own, others in kind.options.items() for other in others}
    aliases |= dict.fromkeys(kind.amount, "amount")
    fields: dict[str, Any] = {}
    for field_name, item in data.items():
        own = aliases.get(field_name, field_name)
        if own not in (*COMMON, *kind.options, *(() if name in NO_AMOUNT else ("amount",))):
            known = [*COMMON[1:-1], *(() if name in NO_AMOUNT else ("amount",)), *kind.options]
            raise SteeringError(f"{name} has no field {field_name!r}; it has {', '.join(known)}")
        if own in fields:
            raise SteeringError(f"{name} gives {own} twice")
        fields[own] = item
    if isinstance(fields.get("absolute"), (int, float)) and not isinstance(fields["absolute"], bool):
        fields["amount"], fields["absolute"] = fields["absolute"], True
    return fields


def _rule(name: str, fields: Mapping[str, Any], experts: Any) -> Rule:
    kind = KINDS[name]
    chosen = _numbers(experts, "experts")
    if chosen is not None and not kind.experts:
        raise SteeringError(f"{name} acts on all experts of a layer; leave experts out")
    layers = _numbers(fields.get("layers", "all"), "layers")
    amount = _amount(name, kind, fields.get("amount", kind.defaults.get("amount")))
    options = {option: fields.get(option, kind.defaults.get(option)) for option in kind.options}
    for option in ("renormalise", "absolute"):
        if not isinstance(options.get(option, False), bool):
            raise SteeringError(f"{option} must be true or false, not {options[option]!r}")
    if name == "vector":
        options["vector"] = _vectors(options["vector"])
    if name == "null_experts":
        options["top_k"] = _whole(options["top_k"], "top_k")
        if isinstance(options["logit"], bool) or not isinstance(options["logit"], (int, float)):
            raise SteeringError(f"logit must be a number, not {options['logit']!r}")
    span = fields.get("span", "all")
    stream = fields.get("stream") or "decoder"
    return Rule(name, layers, chosen, amount, str(stream), Span.read(span), options)


def _plain(value: Any) -> Any:
    """A number, or numbers, of NumPy or torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any, name: str) -> tuple[int, ...] | None:
    value = _plain(value)
    if value == "all":
        return None
    value = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise SteeringError(f"{name} must be a list of numbers or all, not {value!r}")
    numbers = tuple(sorted({_whole(item, name) for item in value}))
    if not numbers:
        raise SteeringError(f"{name} is empty, so the rule would do nothing; leave the rule out, or say all")
    return numbers


def _whole(value: Any, name: str) -> int:
    value = _plain(value)
    if isinstance(value, str) and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SteeringError(f"{name} must be a whole number from 0, not {value!r}")
    return value


def _amount(name: str, kind: Kind, value: Any) -> Amount:
    if name in NO_AMOUNT:
        return None
    if isinstance(value, Mapping) and name == "prune_ratio":
        return {_whole(layer, "layers"): _number(name, kind, item) for layer, item in value.items()}
    if value is None and name == "prune_ratio":
        return None
    return _number(name, kind, value)


def _number(name: str, kind: Kind, value: Any) -> float:
    value = _plain(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not kind.check(value)
    ):
        raise SteeringError(f"{name} needs an amount: {kind.wants}, not {value!r}")
    return value


def _vectors(value: Any) -> Any:
    if isinstance(value, Mapping) and value:
        return {_whole(layer, "layers"): _vectors(item) for layer, item in value.items()}
    values: Any = _plain(value)
    numbers = isinstance(values, (list, tuple)) and all(isinstance(v, (int, float)) for v in values)
    if numbers and values and all(math.isfinite(v) for v in values):
        return tuple(float(v) for v in values)
    raise SteeringError("vector must be a list of finite numbers, or one such list by layer")
