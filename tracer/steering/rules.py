"""The rules of a steering profile: one row of the table holds all about a kind, and `Rule` is one rule.

`read` makes rules from JSON; docs/steering.md is the user's page, and tests hold it and everything else that
knows rules to the table here. CONTRIBUTING.md says how a kind is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...store.schema import RouterSpec
from .kind import Asked, Mark, Number, Option, RuleJson, RuleKind
from .recorded import EveryToken, Recorded
from .slot_mask import EverySlot, SlotMask
from .span import PositionSpan

Amount = float | int | dict[int, float] | None
IN_PLACE = ("layers", "experts", "span", "stream")


def _turned_into(name: str, **fields: Any) -> Callable[[RuleJson], RuleJson]:
    """The opposite that is a rule of another kind in the same place."""
    return lambda rule: {own: rule[own] for own in IN_PLACE if own in rule} | {"rule": name} | fields


def _doubled(rule: RuleJson) -> RuleJson | None:
    return None if rule.get("columns") else _turned_into("scale", amount=2.0)(rule)


def _inverted(rule: RuleJson) -> RuleJson | None:
    return {**rule, "amount": 1 / rule["amount"]} if rule["amount"] else None


def _negated(rule: RuleJson) -> RuleJson:
    return {**rule, "amount": -rule["amount"]}


def _none(rule: RuleJson) -> None:
    return None


def _amount_is(value: float) -> Callable[[Asked, RouterSpec], bool]:
    return lambda rule, spec: rule.amount_in(spec.layer) == value


def _keeps_all_slots(rule: Asked, spec: RouterSpec) -> bool:
    amount = rule.amount_in(spec.layer)
    return spec.top_k is not None and amount is not None and amount >= spec.top_k


def _passes_all_shares(rule: Asked, spec: RouterSpec) -> bool:
    amount = rule.amount_in(spec.layer)
    return amount is not None and amount > 1


def _drops_nothing(rule: Asked, spec: RouterSpec) -> bool:
    # A file is not read for this: one of ones keeps every slot when it is applied.
    mask = rule.options["mask"]
    return isinstance(mask, SlotMask) and mask.keeps_all


def _leaves_logits(rule: Asked, spec: RouterSpec) -> bool:
    return rule.amount_in(spec.layer) == 1 and not rule.options["threshold"]


def _adds_no_nulls(rule: Asked, spec: RouterSpec) -> bool:
    return rule.amount_in(spec.layer) == 0 and rule.options["top_k"] == spec.top_k


def _adds_zeros(rule: Asked, spec: RouterSpec) -> bool:
    vector = rule.vector_in(spec.layer)
    # Vectors that are being learned are tensors: at work also while they are zero.
    return vector is None or (isinstance(vector, tuple) and not any(vector))


def _keeps_everyone(rule: Asked, spec: RouterSpec) -> bool:
    return rule.experts is None or len(rule.experts) == spec.num_experts


def _everyone(spec: RouterSpec) -> RuleJson:
    return {"experts": tuple(range(spec.num_experts))}


def _half(**fields: Any) -> Callable[[RouterSpec], RuleJson]:
    """An example on the first half of the experts."""
    return lambda spec: {"experts": list(range(spec.num_experts // 2)), **fields}


def _up_from(neutral: float) -> Callable[[float], Mark]:
    return lambda amount: "up" if amount > neutral else "down"


RENORMALISE = Option("switch", ("renormalize", "normalise", "normalize"), True, label="renormalise")
KINDS: dict[str, RuleKind] = {
    "off": RuleKind(
        point="logits", place="board", control="other experts", masks="named", mark=lambda _: "off",
        summary="never chosen; the next best expert takes the slot",
        example=_half(), opposite=lambda rule: {**rule, "rule": "on"},
    ),
    "zero": RuleKind(
        point="selection", place="board", control="other experts", mark=lambda _: "zero",
        summary="keeps its slot, with weight 0",
        options={"renormalise": Option("switch", RENORMALISE.names, False, label="renormalise"),
                 "columns": Option("experts", optional=True)},
        example=_half(), opposite=_doubled,
    ),
    "on": RuleKind(
        point="logits", place="board", control="other experts", forces=True, mark=lambda _: "on",
        summary="always chosen: lifted above the highest logit",
        amount=("margin",), number=Number("margin above the highest logit", 1.0, default=1.0),
        example=lambda _: {"experts": [0]}, opposite=_turned_into("off"),
    ),
    "low": RuleKind(
        point="logits", place="board", control="other experts", demotes=True, mark=lambda _: "low",
        summary="its logit becomes the lowest of the token",
        example=_half(), opposite=lambda rule: {**rule, "rule": "on"},
    ),
    "bias": RuleKind(
        point="logits", place="board", control="other experts", mark=_up_from(0),
        summary="its logit is raised by λ standard deviations of the token's logits, or by an absolute number",
        amount=("lambda", "lam", "λ", "strength"),
        number=Number("λ, in standard deviations", 0.5, signed=True, unit=" sd"),
        options={"absolute": Option("switch", ("c",), False, gives_amount=True)},
        neutral=_amount_is(0), still=lambda _: {"amount": 0.0},
        example=_half(amount=2.0), opposite=_negated,
    ),
    "keep_only": RuleKind(
        point="logits", place="board", control="other experts", masks="others", mark=lambda _: "off",
        summary="all other experts are off",
        neutral=_keeps_everyone, still=_everyone,
        example=_half(), opposite=lambda rule: {**rule, "rule": "off"},
    ),
    "scale": RuleKind(
        point="selection", place="board", control="other experts",
        mark=lambda amount: "zero" if amount == 0 else _up_from(1)(amount),
        summary="its gate weight is multiplied by β, not renormalised",
        amount=("beta", "β", "factor"), number=Number("β, times the gate weight", 2.0, 0.0),
        neutral=_amount_is(1), still=lambda _: {"amount": 1.0},
        example=_half(amount=0.5), opposite=_inverted,
    ),
    "top_k": RuleKind(
        point="selection", place="layers", control="none", experts=False, empties=True, limits_ranks=True,
        summary="a token uses only its first m experts",
        amount=("top_k", "m", "k"), options={"renormalise": RENORMALISE, "theta": Option("file", optional=True)},
        number=Number("m: experts a token keeps", 1, 1, 1, whole=True,
                      check=lambda m: m >= 1 and m == int(m), wants="a whole number from 1"),
        neutral=_keeps_all_slots, still=lambda spec: {"amount": spec.top_k},
        example=lambda _: {"amount": 1}, opposite=_none,
    ),
    "top_p": RuleKind(
        point="selection", place="layers", control="none", experts=False, empties=True,
        summary="a token uses experts while the share of the weight before them is below q",
        amount=("top_p", "q", "p"), options={"renormalise": RENORMALISE},
        number=Number("q: share of the weight", 0.8, 0.05, 0.05, check=lambda q: q >= 0, wants="a number from 0"),
        neutral=_passes_all_shares, still=lambda _: {"amount": 1.5},
        example=lambda _: {"amount": 0.1}, opposite=_none,
    ),
    "prune_ratio": RuleKind(
        point="selection", place="layers", control="none", experts=False, empties=True,
        summary="experts with less than μ times the weight of the first are dropped",
        amount=("mu", "μ", "ratio"),
        options={"renormalise": RENORMALISE,
                 "protect": Option("number", ("protected",), 0.0, most=1, step=0.02,
                                   label="protect: share of a text's tokens that keep all")},
        number=Number("μ: least share of the first's weight", 0.5, 0.0, 0.05, from_trace=True,
                      check=lambda mu: mu >= 0, wants="a number from 0"),
        neutral=_amount_is(0), still=lambda _: {"amount": 0.0},
        example=lambda _: {"amount": 1.0}, opposite=_none,
    ),
    "null_experts": RuleKind(
        point="logits", place="layers", control="none", experts=False, empties=True, rechooses=True,
        summary="m extra experts with logit c, which add nothing, compete for k places",
        amount=("m", "count"),
        number=Number("m: null experts", 4, 0, 1, whole=True,
                      check=lambda m: m >= 0 and m == int(m), wants="a whole number from 0"),
        options={"logit": Option("number", ("c",), 0.0, label="c: their logit"),
                 "top_k": Option("whole", ("k",), label="k: places to compete for", first=lambda k: k + 2)},
        neutral=_adds_no_nulls, still=lambda spec: {"amount": 0, "options": {"logit": 0.0, "top_k": spec.top_k}},
        example=lambda spec: {"amount": 1, "logit": 1e3, "top_k": spec.top_k}, opposite=_none,
    ),
    "temperature": RuleKind(
        point="logits", place="layers", control="none", experts=False,
        summary="all logits are divided by τ",
        amount=("temperature", "tau", "τ"),
        number=Number("τ", 1.5, 0.05, 0.1, check=lambda tau: tau > 0, wants="a number above 0"),
        options={"threshold": Option("number", default=0.0, most=1, step=0.001,
                                     label="threshold: all experts with a larger share run (0: k experts)")},
        rechoosing_option="threshold",
        neutral=_leaves_logits, still=lambda _: {"amount": 1.0},
        example=lambda _: {"amount": 2.0}, opposite=_inverted,
    ),
    "vector": RuleKind(
        point="logits", place="learn", control="shuffled vector", experts=False,
        summary="a vector of E numbers is added to the logits",
        options={"vector": Option("vectors", ("delta", "δ", "vectors", "amount"))},
        neutral=_adds_zeros, still=lambda spec: {"options": {"vector": (0.0,) * spec.num_experts}},
        example=lambda spec: {"vector": [float(e) for e in range(spec.num_experts)]},
        opposite=lambda rule: {**rule, "vector": [-value for value in rule["vector"]]},
    ),
    "mask": RuleKind(
        point="selection", place="file", control="none", experts=False, empties=True, masks_slots=True,
        summary="slots that a file names are dropped, token by token; a token's first expert never is",
        options={"mask": Option("mask"), "trace": Option("routing", optional=True), "renormalise": RENORMALISE},
        neutral=_drops_nothing,
        still=lambda _: {"options": {"mask": EverySlot((True,)), "trace": None, "renormalise": True}},
        example=lambda spec: {"mask": EverySlot((True, *(False,) * ((spec.top_k or 1) - 1)))}, opposite=_none,
    ),
    "replay": RuleKind(
        point="selection", place="compare", control="none", experts=False, replays=True,
        summary="the experts of a recorded trace are executed, token by token",
        options={"trace": Option("routing"), "weights": Option("word", default="live", words=("live", "recorded"))},
        example=lambda spec: {"trace": EveryToken(range(spec.top_k or 1)), "weights": "recorded"}, opposite=_none,
    ),
}  # fmt: skip


def is_neutral(rule: Rule, spec: RouterSpec) -> bool:
    """Whether a rule leaves this router's decisions exactly as they are."""
    return (rule.experts == () and rule.kind.masks != "others") or rule.kind.neutral(rule, spec)


def opposite(rule: RuleJson) -> RuleJson | None:
    """The rule that pushes the other way, or None where there is no such thing.

    Args:
        rule: one rule on one layer, in the canonical form of `Steering.to_json`.
    """
    return KINDS[rule["rule"]].opposite(rule)


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
    span: PositionSpan = field(default_factory=PositionSpan)
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int = field(default=0, compare=False, repr=False)
    """Which rule of its profile this was, from 1, for messages: one that names experts by layer becomes several."""

    @property
    def kind(self) -> RuleKind:
        return KINDS[self.rule]

    def acts_in(self, layer: int, stream: str) -> bool:
        return self.stream in (stream, "all") and (self.layers is None or layer in self.layers)

    @property
    def wants_a_trace(self) -> bool:
        """Whether its amount is still to be filled in from a trace."""
        number = self.kind.number
        return self.amount is None and number is not None and number.from_trace

    @property
    def on_pairs(self) -> bool:
        """Whether it acts on pairs of product keys, and leaves both axes as they are."""
        return self.options.get("columns") is not None

    @property
    def rechooses(self) -> bool:
        """Whether it chooses from the logits in the router's place, after all rules at the logits."""
        return self.kind.rechooses or bool(self.options.get(self.kind.rechoosing_option))

    @property
    def reads_tokens(self) -> bool:
        """Whether it must know which tokens are read."""
        return self.kind.replays or self.kind.masks_slots

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
        data |= {name: _plain(value) for name, value in self.options.items() if value is not None}
        data |= {} if self.stream == "decoder" else {"stream": self.stream}
        return data if self.span.everywhere else data | {"span": self.span.to_json()}


def _plain(value: Any) -> Any:
    if isinstance(value, (Recorded, SlotMask)):
        return value.told
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
