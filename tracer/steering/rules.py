"""The rules of a steering profile: their names, their amounts, where and when they act.

A rule acts either on a router's logits before the choice, or on its selection after it. `steering_read` makes
rules from JSON; docs/steering.md is the user's page, and a test holds it to the table here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import SteeringError

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
        ("top_p", "q", "p"), **KEPT, **FROM_0,
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
        options={"vector": ("delta", "δ", "vectors", "amount")},
    ),
}  # fmt: skip


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
            places = [start] if stop is None else [start, stop]
            whole = all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in places)
            if whole and stop is not None and stop <= start:
                raise SteeringError(
                    f"span holds no token: it goes from {start} to {stop}, which is not included"
                )
            if whole and phase in ("all", "prompt", "generation"):
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
        return self.phase == "all" and self.start == 0 and self.stop is None


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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
