"""What rules do to a selection, after the router has chosen and before the experts run.

Shapes: T token rows, K slots, E experts. Slots stay where the router put them, so that rows without a change
are computed bit for bit as before; an emptied slot has id -1 and weight 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .at_logits import experts_mask
from .rules import Rule


def apply_selection(
    rule: Rule,
    layer: int,
    ids_TK: Tensor,
    weights_TK: Tensor,
    num_experts: int,
    *,
    full: bool = False,
    protected_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One rule at the selection: new ids and weights, both (T, K). `full`: it is known that no slot is empty;
    `protected_T`: tokens of which no slot is dropped."""
    if rule.rule in WEIGHED:
        named_TK = _named(rule, ids_TK, num_experts, full=full)
        factor = WEIGHED[rule.rule](rule.amount_in(layer))
        changed_TK = torch.where(named_TK, weights_TK * _number(factor), weights_TK)
        renormalise = bool(rule.options.get("renormalise"))
        return ids_TK, rescaled(changed_TK, weights_TK) if renormalise else changed_TK
    amount, keep = rule.amount_in(layer), KEPT[rule.rule]
    assert amount is not None
    keep_TK = kept_ranks(lambda weight_TK, rank_K: keep(weight_TK, rank_K, amount), ids_TK, weights_TK)
    if protected_T is not None:
        keep_TK |= protected_T.unsqueeze(-1) & (ids_TK >= 0)
    return emptied(ids_TK, weights_TK, ~keep_TK, renormalise=bool(rule.options["renormalise"]))


def emptied(
    ids_TK: Tensor, weights_TK: Tensor, drop_TK: Tensor, *, renormalise: bool
) -> tuple[Tensor, Tensor]:
    """The selection without some slots; the others keep the weight sum of before where `renormalise`."""
    kept_TK = weights_TK.masked_fill(drop_TK, 0)
    return ids_TK.masked_fill(drop_TK, -1), rescaled(kept_TK, weights_TK) if renormalise else kept_TK


def rescaled(weights_TK: Tensor, before_TK: Tensor) -> Tensor:
    """Weights with the row sums of `before_TK`; rows whose sum did not change stay bit for bit."""
    sum_T1, before_T1 = weights_TK.sum(-1, keepdim=True), before_TK.sum(-1, keepdim=True)
    factor_T1 = torch.where(sum_T1 == 0, 0, before_T1 / sum_T1)
    return torch.where(sum_T1 == before_T1, weights_TK, weights_TK * factor_T1)


def kept_ranks(keep: Callable[[Tensor, Tensor], Tensor], ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Slots (T, K) that stay, where `keep` says which ranks do: from weights (T, K) in falling order and ranks (K,).
    Empty slots stay empty."""
    used_TK = ids_TK >= 0
    sorted_TK, order_TK = weights_TK.masked_fill(~used_TK, -torch.inf).sort(
        dim=-1, descending=True, stable=True
    )
    weight_TK = sorted_TK.clamp(min=0).float()
    rank_K = torch.arange(ids_TK.shape[-1], device=ids_TK.device)
    keep_TK = keep(weight_TK, rank_K)
    # From ranks back to the slots where the router put the experts.
    return torch.zeros_like(used_TK).scatter(-1, order_TK, keep_TK) & used_TK


def _first_ranks(weight_TK: Tensor, rank_K: Tensor, most: float) -> Tensor:
    return (rank_K < most).expand_as(weight_TK)


def _first_shares(weight_TK: Tensor, rank_K: Tensor, share: float) -> Tensor:
    share_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
    return (share_TK.cumsum(-1) - share_TK < share) | (rank_K == 0)


def _near_the_first(weight_TK: Tensor, rank_K: Tensor, ratio: float) -> Tensor:
    return (weight_TK >= ratio * weight_TK[:, :1]) | (rank_K == 0)


KEPT: dict[str, Callable[..., Tensor]] = {
    "top_k": _first_ranks, "top_p": _first_shares, "prune_ratio": _near_the_first,
}  # fmt: skip
"""Which ranks each kind keeps, from weights (T, K) in falling order, ranks (K,) and its amount."""
WEIGHED: dict[str, Callable[[float | None], float]] = {
    "zero": lambda _: 0.0,
    "scale": lambda beta: 0.0 if beta is None else float(beta),
}
"""What each kind multiplies the gate weights of its experts by."""


def _named(rule: Rule, ids_TK: Tensor, num_experts: int, *, full: bool) -> Tensor:
    """Slots whose expert the rule names."""
    if rule.experts is None:
        return ids_TK >= 0
    mask = experts_mask(rule.experts, num_experts, ids_TK.device)
    if full:
        return mask.take(ids_TK.long())
    return mask.take(ids_TK.clamp(min=0).long()) & (ids_TK >= 0)


@lru_cache(maxsize=256)
def _number(value: float) -> Tensor:
    """A number as PyTorch itself wraps one, which takes as long as the multiplication by it."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64)
