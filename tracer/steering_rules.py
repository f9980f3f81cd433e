"""The rules of a steering profile: their names, their amounts, and how JSON becomes a `Rule`.

A rule acts either on a router's logits before the choice, or on its selection after it. MEASURES are
documented for users in docs/steering.md; a test holds that page to the table here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import SteeringError

Amount = float | int | dict[int, float] | None
Point = Literal["logits", "selection"]


@dataclass(frozen=True)
class Kind:
    """One kind of rule."""

    point: Point
    summary: str
    experts: bool = True
    """Whether it acts on named experts (otherwise on all of a layer)."""
    amount: tuple[str, ...] = ()
    """Names under which the amount may be given, beside `amount`."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further fields, each with its other names."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[float], bool] = math.isfinite
    """Whether an amount makes sense."""
    wants: str = "a number"


RENORMALISE = {"renormalise": ("renormalize", "normalise", "normalize")}
KEPT = {"options": RENORMALISE, "defaults": {"renormalise": True}}
ABOVE_0 = {"check": lambda x: x > 0, "wants": "a number above 0"}
FROM_0 = {"check": lambda x: x >= 0, "wants": "a number from 0"}
KINDS: dict[str, Kind] = {
    "off": Kind("logits", "never chosen; the next best expert takes the slot"),
    "zero": Kind(
        "selection", "keeps its slot, with weight 0", options=RENORMALISE, defaults={"renormalise": False}
    ),
    "on": Kind(
        "logits", "always chosen: lifted above the highest logit", amount=("margin",), defaults={"amount": 1.0}
    ),
    "low": Kind("logits", "its logit becomes the lowest of the token"),
    "bias": Kind(
        "logits",
        "its logit is raised by λ standard deviations of the token's logits, or by an absolute number",
        amount=("lambda", "lam", "λ", "strength"),
        options={"absolute": ("c",)},
        defaults={"absolute": False},
    ),
    "keep_only": Kind("logits", "all other experts are off"),
    "scale": Kind(
        "selection", "its gate weight is multiplied by β, not renormalised", amount=("beta", "β", "factor")
    ),
    "top_k": Kind(
        "selection", "a token uses only its first m experts", False, ("top_k", "m", "k"), **KEPT,
        check=lambda m: m >= 1 and m == int(m), wants="a whole number from 1",
    ),
    "top_p": Kind(
        "selection", "a token uses experts while the share of the weight before them is below q", False,
        ("top_p", "q", "p"), **KEPT, **ABOVE_0,
    ),
    "prune_ratio": Kind(
        "selection", "experts with less than μ times the weight of the first are dropped", False,
        ("mu", "μ", "ratio"), **KEPT, **FROM_0,
    ),
    "null_experts": Kind(
        "logits", "m extra experts with logit c, which add nothing, compete for k places", False, ("m", "count"),
        options={"logit": ("c",), "top_k": ("k",)}, defaults={"logit": 0.0},
        check=lambda m: m >= 0 and m == int(m), wants="a whole number from 0",
    ),
    "temperature": Kind(
        "logits", "all logits are divided by τ", False, ("temperature", "tau", "τ"), **ABOVE_0
    ),
    "vector": Kind(
        "logits", "a vector of E numbers is added to the logits", False,
        options={"vector": ("delta", "δ", "vectors")},
    ),
}  # fmt: skip
NO_AMOUNT = ("off", "zero", "low", "keep_only", "vector")
OTHER_NAMES = {
    "layer": "layers",
    "expert": "experts",
    "type": "rule",
    "kind": "rule",
    "from": "from_position",
}
COMMON = ("rule", "layers", "experts", "stream", "span", "from_position", "note")


@dataclass(frozen=True)
class Span:
    """Which tokens of a sequence a rule acts on; positions count from 0, padding left out."""

    phase: Literal["all", "prompt", "generation"] = "all"
    start: int = 0
    stop: int | None = None

    @classmethod
    def read(cls, value: Any) -> Span:
        """From "all", "prompt", "generation", a first position, or {"from": n, "to": m}."""
        if isinstance(value, str) and value in ("all", "prompt", "generation"):
            return cls(phase=value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(start=value)
        if isinstance(value, Mapping) and set(value) <= {"from", "to", "phase"}:
            phase, start, stop = value.get("phase", "all"), value.get("from", 0), value.get("to")
            if (
                phase in ("all", "prompt", "generation")
                and isinstance(start, int)
                and isinstance(stop, int | None)
            ):
                return cls(phase, start, stop)
        raise SteeringError(
            f"span must be all, prompt, generation, a first position or {{'from': n, 'to': m}}, not {value!r}"
        )

    def to_json(self) -> Any:
        if (self.start, self.stop) == (0, None):
            return self.phase
        data: dict[str, Any] = {"from": self.start}
        data |= {} if self.stop is None else {"to": self.stop}
        return data if self.phase == "all" else data | {"phase": self.phase}

    @property
    def everywhere(self) -> bool:
        return self == Span()


@dataclass(frozen=True)
class Rule:
    """One rule, in canonical form."""

    rule: str
    layers: tuple[int, ...] | None = None
    """None: all layers that have a router of that stream."""
    experts: tuple[int, ...] | None = None
    """None: all experts of a layer."""
    amount: Amount = None
    stream: str = "decoder"
    span: Span = field(default_factory=Span)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return KINDS[self.rule]

    def acts_in(self, layer: int, stream: str) -> bool:
        return self.stream in (stream, "all") and (self.layers is None or layer in self.layers)

    def amount_in(self, layer: int) -> float | None:
        """The amount for one layer; None where none is known."""
        return self.amount.get(layer) if isinstance(self.amount, dict) else self.amount

    def vector_in(self, layer: int) -> Any:
        """The vector for one layer, or None."""
        vectors = self.options["vector"]
        return vectors.get(layer) if isinstance(vectors, Mapping) else vectors

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "rule": self.rule,
            "layers": "all" if self.layers is None else list(self.layers),
            "experts": "all" if self.experts is None else list(self.experts),
        }
        if self.amount is not None:
            data["amount"] = _plain(self.amount)
        data |= {name: _plain(value) for name, value in self.options.items()}
        data |= {} if self.stream == "decoder" else {"stream": self.stream}
        return data if self.span.everywhere else data | {"span": self.span.to_json()}


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
            raise SteeringError(f"rule {number}: {error}") from None
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
    if name == "vector":
        options["vector"] = _vectors(options["vector"])
    if name == "null_experts":
        options["top_k"] = _whole(options["top_k"], "top_k")
        options["logit"] = float(options["logit"])
    span = fields.get("span", "all")
    stream = fields.get("stream") or "decoder"
    return Rule(name, layers, chosen, amount, str(stream), Span.read(span), options)


def _numbers(value: Any, name: str) -> tuple[int, ...] | None:
    if value == "all":
        return None
    value = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise SteeringError(f"{name} must be a list of numbers or all, not {value!r}")
    return tuple(sorted({_whole(item, name) for item in value}))


def _whole(value: Any, name: str) -> int:
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
    values: Any = getattr(value, "tolist", lambda: value)()
    numbers = isinstance(values, (list, tuple)) and all(isinstance(v, (int, float)) for v in values)
    if numbers and values and all(math.isfinite(v) for v in values):
        return tuple(float(v) for v in values)
    raise SteeringError("vector must be a list of finite numbers, or one such list by layer")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
