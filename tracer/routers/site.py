"""A site: one router of one model, as the tracer holds it while hooks are attached.

`RouterSpec` is what a site says to the outside; the rest says where its logits arise, where its decision
passes, and where its logits can be edited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ...store.schema import RouterSpec
from .passages import Call, ExpertsCall, Passage


def first_logits(call: Call, num_experts: int) -> Tensor | None:
    """The first floating-point tensor with E numbers at its end among a router's outputs."""
    values = call.output if isinstance(call.output, (tuple, list)) else (call.output,)
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1] == num_experts:
            return value
    return None


def logits_weight(router: nn.Module) -> Tensor | None:
    """The weight (E, H) of the linear layer that scores the experts: the router's own, else its last."""
    own = getattr(router, "weight", None)
    if isinstance(own, Tensor) and (own.dim() == 2 or hasattr(router, "out_features")):
        return own
    weights = [p for name, p in router.named_parameters() if name.endswith("weight") and p.dim() == 2]
    return weights[-1] if weights else None


@dataclass(kw_only=True)
class Site:
    """One router with the modules around it."""

    spec: RouterSpec
    router: nn.Module
    """Called once per forward; its output, or that of `logits_from`, holds the logits."""
    experts: nn.Module | None = None
    """Called with the decision, where the passage is at the experts."""
    passage: Passage = field(default_factory=ExpertsCall)
    logits: Callable[[Call], Tensor | None]
    """From the call of `logits_from` to logits (..., E); None where the router has none."""
    logits_from: nn.Module | None = None
    """Module whose output holds the logits, where it is not the router itself."""
    scope: nn.Module | None = None
    """Module in whose forward the logits arise and the choice is made (default: the router)."""
    weight: Tensor | None = None
    """Weight of the linear layer that makes the logits, (E or more, H), as it was found; see `weight_now`."""
    edits_scores: bool = False
    """Whether the logits are edited where they are chosen from, as no single linear layer makes them."""
    proportional: bool = True
    """Whether gate weights are proportional to the scores of the chosen experts."""
    normalises: bool = True
    """Whether the model scales the gate weights of the chosen experts to a fixed sum."""
    shared: nn.Module | None = None
    """Shared experts whose gate weights (keyword `gammas`) are normalised together with the chosen ones'."""
    stack: str = ""
    """Module path of the stack of layers, which is called with (batch, position) and the attention mask."""
    adapter: str = ""
    """Adapter that fits this router where the general mechanism doesn't."""

    def __post_init__(self) -> None:
        self.scope = self.scope or self.router
        self.logits_from = self.logits_from or self.router
        self._weight_at = next(
            (
                (module, name)
                for module in self.router.modules()
                for name, weight in module.named_parameters(recurse=False)
                if weight is self.weight
            ),
            None,
        )

    def weight_now(self) -> Tensor | None:
        """The weight as its module holds it now: where weights lie on a disk, each use puts another tensor there."""
        if self._weight_at is None:
            return self.weight
        module, name = self._weight_at
        return getattr(module, name)
