"""Makes rules from JSON, forgiving in names and strict in values.

`layers` and `experts` may be one number, a list or "all"; `experts` may also map layers to lists. Amounts may
be given as `amount` or by the names that `rules.KINDS` lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import SteeringError, said
from .kind import Number, Option, RuleKind
from .recorded import Recorded
from .rules import KINDS, Amount, Rule
from .slot_mask import SlotMask
from .span import PositionSpan

OTHER_NAMES = {"layer": "layers", "expert": "experts", "type": "rule", "kind": "rule"}
LARGEST_WHOLE = 2**31 - 1
"""Layers, experts and positions are compared as int32 and int64."""
LARGEST, SMALLEST = 1e30, 1e-30
"""Of an amount other than 0, up or down: with more a float32 logit becomes infinite, and the next sum NaN."""
WHOLE = re.compile(r"[0-9]{1,10}")
"""Of ASCII: "²" is a digit too, but no number."""
COMMON = ("rule", "layers", "experts", "stream", "span", "note")


def read_rules(data: Iterable[Any]) -> tuple[Rule, ...]:
    """Rules from JSON values or `Rule`s; `experts` by layer becomes one rule a layer.

    Raises:
        SteeringError: naming the rule by its number and what is wrong with it.
    """
    rules: list[Rule] = []
    for number, value in enumerate(data, start=1):
        try:
            rules += (
                [value]
                if isinstance(value, Rule)
                else [replace(rule, number=number) for rule in _read(value)]
            )
        except SteeringError as error:
            name = value.get("rule") if isinstance(value, Mapping) else None
            called = f" ({name})" if isinstance(name, str) and name in KINDS else ""
            raise SteeringError(f"rule {number}{called}: {error}") from None
    return tuple(rules)


def _read(value: Any) -> list[Rule]:
    if not isinstance(value, Mapping):
        raise SteeringError(f"a rule is an object with a field rule, not {said(value)}")
    data = {OTHER_NAMES.get(str(name), str(name)): item for name, item in value.items()}
    if len(data) < len(value):
        raise SteeringError(
            f"a field is given twice (perhaps under its other name): {', '.join(map(str, value))[:100]}"
        )
    name = data.get("rule")
    if not isinstance(name, str) or name not in KINDS:
        raise SteeringError(f"there is no rule {said(name)}; there are {', '.join(KINDS)}")
    fields = _canonical(name, data)
    experts = fields.pop("experts", "all" if not KINDS[name].experts else None)
    if isinstance(experts, Mapping):
        by_layer = {_whole(layer, "layers"): chosen for layer, chosen in experts.items()}
        if len(by_layer) < len(experts):
            raise SteeringError(f"experts names a layer twice: {', '.join(map(str, experts))[:100]}")
        if data.get("layers", "all") != "all":
            raise SteeringError("give either layers, or experts by layer")
        return [_rule(name, fields | {"layers": [layer]}, chosen) for layer, chosen in by_layer.items()]
    if experts is None:
        raise SteeringError(f"{name} needs experts: a list of numbers, or all")
    return [_rule(name, fields, experts)]


def _canonical(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rule under their own names."""
    kind = KINDS[name]
    aliases = {other: own for own, option in kind.options.items() for other in option.names}
    aliases |= dict.fromkeys(kind.amount, "amount")
    own_fields = (*(("amount",) if kind.number else ()), *kind.options)
    fields: dict[str, Any] = {}
    for field_name, item in data.items():
        own = aliases.get(field_name, field_name)
        if own not in (*COMMON, *own_fields):
            raise SteeringError(
                f"{name} has no field {said(field_name)}; it has {', '.join((*COMMON[1:-1], *own_fields))}"
            )
        if own in fields:
            raise SteeringError(f"{name} gives {own} twice")
        fields[own] = item
    for own, option in kind.options.items():
        given = fields.get(own)
        if option.gives_amount and isinstance(given, (int, float)) and not isinstance(given, bool):
            fields["amount"], fields[own] = given, True
    return fields


def _rule(name: str, fields: Mapping[str, Any], experts: Any) -> Rule:
    kind = KINDS[name]
    chosen = _numbers(experts, "experts")
    if chosen is not None and not kind.experts:
        raise SteeringError(f"{name} acts on all experts of a layer; leave experts out")
    layers = _numbers(fields.get("layers", "all"), "layers")
    amount = _amount(name, kind, fields.get("amount"))
    options = {
        own: _option(own, option, fields.get(own, option.default)) for own, option in kind.options.items()
    }
    span = fields.get("span", "all")
    stream = fields.get("stream") or "decoder"
    return Rule(name, layers, chosen, amount, str(stream), PositionSpan.read(span), options)


def _option(name: str, option: Option, value: Any) -> Any:
    if value is None and option.optional:
        return None
    if option.holds == "switch" and not isinstance(value, bool):
        raise SteeringError(f"{name} must be true or false, not {said(value)}")
    if option.holds == "number" and not _is_number(value):
        raise SteeringError(f"{name} must be a number up to {LARGEST:g}, not {said(value)}")
    if option.holds == "number" and option.most is not None and not 0 <= float(value or 0) <= option.most:
        raise SteeringError(f"{name} must be a number from 0 to {option.most:g}, not {said(value)}")
    if option.holds == "file" and not (isinstance(value, str) and value):
        raise SteeringError(f"{name} must be the path of a file, not {said(value)}")
    if option.holds == "mask" and not (isinstance(value, SlotMask) or (isinstance(value, str) and value)):
        raise SteeringError(f"{name} must be the path of a Parquet file, not {said(value)}")
    if option.holds == "whole":
        return _whole(value, name)
    if option.holds == "experts":
        if (numbers := _numbers(value, name)) is None:
            raise SteeringError(f"{name} must be a list of numbers: without it the rule acts on all of them")
        return numbers
    if option.holds == "word" and value not in option.words:
        raise SteeringError(f"{name} must be {' or '.join(option.words)}, not {value!r}")
    if option.holds == "routing" and not (isinstance(value, Recorded) or (isinstance(value, str) and value)):
        raise SteeringError(
            f"{name} must be the address of a trace, not {value!r}; Steering.replay takes objects"
        )
    return _vectors(value) if option.holds == "vectors" else value


def _plain(value: Any) -> Any:
    """A number, or numbers, of NumPy or torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any, name: str) -> tuple[int, ...] | None:
    value = _plain(value)
    if value == "all":
        return None
    value = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    # A mapping would give its keys: {"3": {"3": [1]}} is no expert 3.
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise SteeringError(f"{name} must be a list of numbers or all, not {said(value)}")
    numbers = tuple(sorted({_whole(item, name) for item in value}))
    if not numbers:
        raise SteeringError(f"{name} is empty, so the rule would do nothing; leave the rule out, or say all")
    return numbers


def _whole(value: Any, name: str) -> int:
    value = _plain(value)
    if isinstance(value, str) and WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_WHOLE:
        raise SteeringError(f"{name} must be a whole number from 0 to {LARGEST_WHOLE}, not {said(value)}")
    return value


def _amount(name: str, kind: RuleKind, value: Any) -> Amount:
    number = kind.number
    if number is None:
        return None
    value = number.default if value is None else value
    if number.from_trace and isinstance(value, Mapping):
        return {_whole(layer, "layers"): _number(name, number, item) for layer, item in value.items()}
    return None if number.from_trace and value is None else _number(name, number, value)


def _number(name: str, number: Number, value: Any) -> float:
    value = _plain(value)
    if not _is_number(value) or not number.check(value) or (number.whole and value > LARGEST_WHOLE):
        raise SteeringError(f"{name} needs an amount: {number.wants}, not {said(value)}")
    return value


def _is_number(value: Any) -> bool:
    """Whether float32 arithmetic stays finite with it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _vectors(value: Any) -> Any:
    if isinstance(value, Mapping) and value:
        return {_whole(layer, "layers"): _vectors(item) for layer, item in value.items()}
    values: Any = _plain(value)
    if isinstance(values, (list, tuple)) and values and all(_is_number(v) or _is_tiny(v) for v in values):
        return tuple(float(v) for v in values)
    raise SteeringError(
        f"vector must be a list of finite numbers up to {LARGEST:g}, or one such list by layer"
    )


def _is_tiny(value: Any) -> bool:
    return isinstance(value, float) and abs(value) < SMALLEST
