"""What a row of the table of rules holds: all that moescope knows of one kind of rule but its arithmetic.

The rows are in `rules`. Reading, checking, controls, the Steer page and the docs' test ask the row; the tensor
work of a kind is an entry in `at_logits.EDITS` or `at_selection.EDITS`, so that nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ...store.schema import RouterSpec

RuleJson = dict[str, Any]
Point = Literal["logits", "selection"]
Place = Literal["board", "layers", "learn", "compare", "file"]
"""Where the app makes such a rule: on the Steer page by a click on the switchboard, the form for whole layers or
Learn; on the Compare page; or only in a profile that is loaded."""
Mark = Literal["off", "on", "zero", "low", "up", "down"]
"""The sign of a steered cell on the switchboard."""
Control = Literal["other experts", "shuffled vector", "none"]
"""How a random control is drawn: on as many other experts, with the vector's numbers shuffled, not at all."""


class Asked(Protocol):
    """What a row may ask of a rule."""

    @property
    def experts(self) -> tuple[int, ...] | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    def amount_in(self, layer: int) -> float | None: ...
    def vector_in(self, layer: int) -> Any: ...


@dataclass(frozen=True)
class Number:
    """The amount of a rule: what is allowed, and how a form asks for it."""

    label: str
    """Above the form's field."""
    first: float
    """What the field starts with."""
    least: float | None = None
    step: float = 0.1
    default: float | None = None
    """Used where none is given; None: it must be given."""
    check: Callable[[float], bool] = math.isfinite
    wants: str = "a number"
    """What `check` asks for, in words."""
    whole: bool = False
    signed: bool = False
    """Whether a list of rules shows a plus before it."""
    unit: str = ""
    """After it in a list of rules."""
    from_trace: bool = False
    """May differ by layer, and may be filled in from a trace (`median_ratios`)."""


@dataclass(frozen=True)
class Option:
    """A further field of a rule."""

    holds: Literal["switch", "number", "whole", "vectors", "word", "routing", "file", "mask", "experts"]
    names: tuple[str, ...] = ()
    """Other names under which it may be given."""
    default: Any = None
    label: str = ""
    """Above the form's field; without one, the form does not ask and takes the default."""
    first: Callable[[int], float] = lambda k: 0.0
    """What the field starts with, from the model's experts per token."""
    words: tuple[str, ...] = ()
    """What a word may be."""
    gives_amount: bool = False
    """A number here is the amount, and switches the option on."""
    most: float | None = None
    """A number lies between 0 and this."""
    step: float = 0.5
    """Of the form's field."""
    optional: bool = False
    """Whether it may be left out where it has no default."""


def never(rule: Asked, spec: RouterSpec) -> bool:
    return False


def on_no_expert(spec: RouterSpec) -> RuleJson:
    return {"experts": ()}


@dataclass(frozen=True, kw_only=True)
class RuleKind:
    """One kind of rule."""

    point: Point
    """Whether it edits the logits before the choice, or the selection after it."""
    summary: str
    """What happens to an expert or a token, for docs and screen."""
    place: Place
    example: Callable[[RouterSpec], RuleJson]
    """Fields (beside rule, layers) of one that changes a router's decisions."""
    opposite: Callable[[RuleJson], RuleJson | None]
    """The rule that pushes the other way, from a rule on one layer as JSON; None: there is none."""
    control: Control
    neutral: Callable[[Asked, RouterSpec], bool] = never
    """Whether the rule leaves this router as it is, beside the case that it names no expert."""
    still: Callable[[RouterSpec], RuleJson] = on_no_expert
    """Attributes that make any rule of the kind neutral."""
    experts: bool = True
    """Whether it acts on named experts (otherwise on all of a layer)."""
    amount: tuple[str, ...] = ()
    """Names of its amount beside `amount`; empty: it takes none."""
    number: Number | None = None
    """What its amount may be."""
    options: Mapping[str, Option] = field(default_factory=dict)
    masks: Literal["named", "others"] | None = None
    """Which experts can no longer be chosen, so that such rules together can empty a router."""
    forces: bool = False
    """Whether its experts are always chosen, so no more than k can be named."""
    demotes: bool = False
    """Whether its experts are no longer chosen for certain, though not masked."""
    empties: bool = False
    """Whether it can leave slots of a token empty."""
    limits_ranks: bool = False
    """Whether it is neutral by k alone, and so no longer where a token may have more than k experts."""
    rechooses: bool = False
    """Whether it chooses from the logits in the router's place, after all rules at the logits."""
    rechoosing_option: str = ""
    """Name of an option that makes it choose so too, after its own edit of the logits."""
    replays: bool = False
    """Whether it imposes recorded decisions, so that it must know which tokens are read."""
    masks_slots: bool = False
    """Whether it drops slots token by token, so that it must know which tokens are read."""
    mark: Callable[[float], Mark] | None = None
    """On the board: the sign of a cell, from the amount (0 without one)."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Options as they are where none is given."""
        return {name: option.default for name, option in self.options.items()}

    @property
    def has_vector(self) -> bool:
        """Whether it adds a vector of E numbers, which has its own length and numbers by layer."""
        return any(option.holds == "vectors" for option in self.options.values())
