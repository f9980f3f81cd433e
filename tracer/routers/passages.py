"""Passages: where a routing decision goes from a router to its experts, and how to read and rewrite it there.

Nearly every model calls `experts(hidden, top_k_index, top_k_weights)`; what that call receives is what is
executed. Models that hand the decision over in another form have a passage of their own in `adapters`.

Shapes: T tokens, K experts per token, E experts. An expert id of -1 is an empty slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import CaptureError

INTEGERS = (torch.int64, torch.int32, torch.int16)


@dataclass
class Call:
    """One call of a module on its way through a hook."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    run: Any = None
    """The module's forward without what others put around it; `module.forward` where left out."""
    rows: tuple[int, ...] = field(default=(), init=False)
    """Leading dimensions of the decision as it was handed over, for writing it back in the same shape."""
    places: tuple[int | None, int | None] = field(default=(None, None), init=False)
    """Where the ids and the weights were found among the arguments."""


class Passage:
    """How one kind of module hands a decision over. One instance serves one router."""

    at: Literal["experts", "router", "output"] = "experts"
    """`experts`: in the arguments of the experts module; `router`: in the output of the router; `output`: in
    what the experts module makes of them."""
    empties: bool = True
    """Whether `read` may find empty slots."""
    scores_TE: Tensor | None = None
    """Logits that only the passage knows, steering included."""
    fixed_ids: bool = False
    """Whether the experts are settled when the decision passes, so that only their weights can be changed."""
    shared_T1: Tensor | None = None
    """Gate weight of a token's shared experts in all, where it is normalised together with the chosen ones'."""
    shared_factor_T1: Tensor | None = None
    """What a rule multiplies that by, for the call of the shared experts that follows."""

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """The decision as it stands: expert ids (T, K) integer, gate weights (T, K) or None."""
        raise NotImplementedError

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        """Replace the decision in `call`. Slots without an expert arrive as a valid id with weight 0."""
        raise NotImplementedError

    takes_input: bool = False
    """Whether `hidden` and `scale_input` can be asked."""

    def hidden(self, call: Call) -> Tensor:
        """(T, D): what the experts receive."""
        raise NotImplementedError

    def scale_input(self, call: Call, factor_TD: Tensor) -> None:
        """Multiply what the experts receive, in `call`."""
        raise NotImplementedError

    no_outputs: str = "their call holds no decision that could be made for a single expert"
    """Why `alone` can't be asked; empty where it can."""

    def alone(self, call: Call, rows_N: Tensor, ids_N: Tensor) -> Tensor:
        """(N, H): what one expert each puts out on a row of an earlier call of the experts, before any gate
        weight."""
        raise NotImplementedError

    def routed(self, call: Call) -> Tensor:
        """(T, H): what a call of the experts put out in all."""
        return flat(call.output)

    def factors(self, call: Call) -> Tensor:
        """(T, K): what the outputs of the experts that `read` names were multiplied by in `routed`."""
        ids_TK, weights_TK = self.read(call)
        return torch.ones_like(ids_TK, dtype=torch.float32) if weights_TK is None else weights_TK


class ExpertsCall(Passage):
    """`experts(hidden, ids, weights)`, positional or by keyword, in either order.

    Args:
        slots: slots that a call needs at least, where one is not enough.
    """

    no_outputs = ""
    empties = False
    takes_input = True

    def __init__(self, slots: int = 1) -> None:
        self._slots = slots

    def read(self, call: Call) -> tuple[Tensor, Tensor | None]:
        values = [*call.args, *call.kwargs.values()]
        call.places = ids_at, weights_at = _decision_in(values)
        if ids_at is None:
            raise CaptureError(
                f"{type(call.module).__name__} was called without a tensor of expert ids; declare this "
                "router with a DeclaredRouter that says where its ids and weights are"
            )
        call.rows = tuple(values[ids_at].shape[:-1])
        return flat(values[ids_at]), None if weights_at is None else flat(values[weights_at])

    def write(self, call: Call, ids_TK: Tensor, weights_TK: Tensor | None) -> None:
        values = [*call.args, *call.kwargs.values()]
        for at, new in zip(call.places, (ids_TK, weights_TK), strict=True):
            if at is not None and new is not None:
                shaped = new if len(call.rows) == 1 else new.reshape(*call.rows, new.shape[-1])
                values[at] = shaped.to(values[at].dtype)
        count = len(call.args)
        call.args, call.kwargs = tuple(values[:count]), dict(zip(call.kwargs, values[count:], strict=True))

    def hidden(self, call: Call) -> Tensor:
        values = [*call.args, *call.kwargs.values()]
        return flat(values[_hidden_in(values)])

    def scale_input(self, call: Call, factor_TD: Tensor) -> None:
        values = [*call.args, *call.kwargs.values()]
        at = _hidden_in(values)
        # Never in place: shared experts receive the same tensor, and are not scaled.
        values[at] = (flat(values[at]) * factor_TD).to(values[at].dtype).reshape(values[at].shape)
        count = len(call.args)
        call.args, call.kwargs = tuple(values[:count]), dict(zip(call.kwargs, values[count:], strict=True))

    def alone(self, call: Call, rows_N: Tensor, ids_N: Tensor) -> Tensor:
        values = [*call.args, *call.kwargs.values()]
        ids_at, weights_at = _decision_in(values)
        assert ids_at is not None
        hidden_at = _hidden_in(values)
        values[hidden_at] = flat(values[hidden_at])[rows_N]
        values[ids_at] = ids_N.to(values[ids_at].dtype).unsqueeze(-1).expand(-1, self._slots).contiguous()
        if weights_at is not None:
            ones = values[weights_at].new_zeros(len(ids_N), self._slots)
            ones[:, 0] = 1
            values[weights_at] = ones
        count = len(call.args)
        run = call.run or call.module.forward
        return flat(run(*values[:count], **dict(zip(call.kwargs, values[count:], strict=True))))


def _decision_in(values: list[Any]) -> tuple[int | None, int | None]:
    """Places of the ids and of the weights among the arguments of an experts module."""
    ids = next((i for i, value in enumerate(values) if is_ids(value)), None)
    if ids is None:
        return None, None
    # The hidden states come first; where K equals their width, the weights are the later match.
    weights = [
        i
        for i, value in enumerate(values)
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape == values[ids].shape
    ]
    return ids, weights[-1] if weights else None


def _hidden_in(values: list[Any]) -> int:
    """Place of the hidden states among the arguments of an experts module."""
    _, weights_at = _decision_in(values)
    return next(i for i, value in enumerate(values) if _is_hidden(value) and i != weights_at)


def _is_hidden(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def is_ids(value: object) -> bool:
    """Whether a value is a tensor that may hold expert ids, (..., K) integer."""
    return isinstance(value, Tensor) and value.dtype in INTEGERS and value.dim() >= 2


def flat(values: Tensor) -> Tensor:
    """(..., K) as (T, K), rows in order."""
    return values if values.dim() == 2 else values.reshape(-1, values.shape[-1])


def by_weight(ids_TK: Tensor, weights_TK: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A decision in descending gate weight; ties keep the router's own slot order; empty slots come last."""
    if weights_TK is None or ids_TK.shape[-1] < 2:
        return ids_TK, weights_TK
    # On the CPU a look is far cheaper than a sort; on a GPU it would wait for the device.
    if weights_TK.device.type == "cpu" and bool((weights_TK[:, :-1] >= weights_TK[:, 1:]).all()):
        return ids_TK, weights_TK
    sorted_TK, order_TK = weights_TK.sort(dim=-1, descending=True, stable=True)
    return ids_TK.gather(-1, order_TK), sorted_TK
