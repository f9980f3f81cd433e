"""What rules do to a selection, after the router has chosen and before the experts run.

Shapes: T token rows, K slots, E experts. Slots stay where the router put them, so that rows without a change
are computed bit for bit as before; an emptied slot has id -1 and weight 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..routers.scoring import router_probabilities
from .at_logits import experts_mask
from .rules import Rule


def apply_selection(
    rule: Rule, layer: int, ids_TK: Tensor, weights_TK: Tensor, num_experts: int, *, full: bool = False
) -> tuple[Tensor, Tensor]:
    """One rule at the selection: new ids and weights, both (T, K). `full`: it is known that no slot is empty."""
    if rule.rule in WEIGHED:
        named_TK = _named(rule, ids_TK, num_experts, full=full)
        factor = WEIGHED[rule.rule](rule.amount_in(layer))
        changed_TK = torch.where(named_TK, weights_TK * _number(factor), weights_TK)
        renormalise = bool(rule.options.get("renormalise"))
        return ids_TK, rescaled(changed_TK, weights_TK) if renormalise else changed_TK
    amount = rule.amount_in(layer)
    assert amount is not None
    keep_TK = _kept(KEPT[rule.rule], amount, ids_TK, weights_TK)
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


def _kept(keep: Keep, amount: float, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Slots (T, K) that a rule on ranks or shares keeps; empty ones stay empty."""
    used_TK = ids_TK >= 0
    sorted_TK, order_TK = weights_TK.masked_fill(~used_TK, -torch.inf).sort(
        dim=-1, descending=True, stable=True
    )
    weight_TK = sorted_TK.clamp(min=0).float()
    rank_K = torch.arange(ids_TK.shape[-1], device=ids_TK.device)
    keep_TK = keep(weight_TK, rank_K, amount)
    # From ranks back to the slots where the router put the experts.
    return torch.zeros_like(used_TK).scatter(-1, order_TK, keep_TK) & used_TK


def _first_ranks(weight_TK: Tensor, rank_K: Tensor, most: float) -> Tensor:
    return (rank_K < most).expand_as(weight_TK)


def _first_shares(weight_TK: Tensor, rank_K: Tensor, share: float) -> Tensor:
    share_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
    return (share_TK.cumsum(-1) - share_TK < share) | (rank_K == 0)


def _near_the_first(weight_TK: Tensor, rank_K: Tensor, ratio: float) -> Tensor:
    return (weight_TK >= ratio * weight_TK[:, :1]) | (rank_K == 0)


Keep = Callable[[Tensor, Tensor, float], Tensor]
KEPT: dict[str, Keep] = {
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


def with_null_experts(
    rule: Rule, ids_TK: Tensor, weights_TK: Tensor, logits_TE: Tensor, scoring: str, *, normalises: bool
) -> tuple[Tensor, Tensor]:
    """The selection if m extra experts with logit c competed for k places (AdaMoE).

    True experts compete by their logits alone; where a true and a null expert tie, the true one wins. Gate
    weights stay proportional to the router's scores, with the factor that this token's weights had, and keep
    their sum where the model normalises.
    Returns:
        Ids and weights (T, min(k, E)).
    """
    count, places = int(rule.amount_in(0) or 0), min(rule.options["top_k"], logits_TE.shape[-1])
    z_TE = logits_TE.float()
    top_TJ, chosen_TJ = z_TE.topk(places, dim=-1)
    rank_J = torch.arange(places, device=z_TE.device)
    beaten_TJ = top_TJ < rule.options["logit"]
    keep_TJ = (rank_J + beaten_TJ * count < rule.options["top_k"]) & (top_TJ > -torch.inf)
    score_TE = router_probabilities(logits_TE, scoring)
    assert score_TE is not None
    old_T1 = score_TE.gather(-1, ids_TK.clamp(min=0)).masked_fill(ids_TK < 0, 0).sum(-1, keepdim=True)
    sum_T1 = weights_TK.sum(-1, keepdim=True).float()
    weight_TJ = score_TE.gather(-1, chosen_TJ) * torch.where(old_T1 == 0, 0, sum_T1 / old_T1)
    weight_TJ = weight_TJ.masked_fill(~keep_TJ, 0)
    if normalises:
        kept_T1 = weight_TJ.sum(-1, keepdim=True)
        weight_TJ = weight_TJ * torch.where(kept_T1 == 0, 0, sum_T1 / kept_T1)
    return chosen_TJ.masked_fill(~keep_TJ, -1), weight_TJ.to(weights_TK.dtype)
