"""Rules that choose from the logits in the router's place, after all rules at the logits.

Gate weights stay proportional to the router's scores, with the factor that this token's weights had, and keep their sum
where the model normalises.

Shapes: T token rows, K slots of the router's own choice, J slots of the new one, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..routers.scoring import router_probabilities
from .rules import Rule

Selection = tuple[Tensor, Tensor]


def rechosen(
    rule: Rule, ids_TK: Tensor, weights_TK: Tensor, logits_TE: Tensor, scoring: str, *, normalises: bool
) -> Selection:
    """Ids and weights (T, J) as the rule chooses."""
    score_TE = router_probabilities(logits_TE, scoring)
    assert score_TE is not None
    choose = with_null_experts if rule.kind.rechooses else above_threshold
    chosen_TJ, keep_TJ = choose(rule, logits_TE.float(), score_TE)
    # Gate weights are scores times a factor of the token (scaling, or normalisation over the old choice): (T, 1).
    # The new experts (T, J) get their scores times the same factor, so that an unchanged choice keeps its weights.
    old_T1 = score_TE.gather(-1, ids_TK.clamp(min=0)).masked_fill(ids_TK < 0, 0).sum(-1, keepdim=True)
    sum_T1 = weights_TK.sum(-1, keepdim=True).float()
    weight_TJ = score_TE.gather(-1, chosen_TJ) * torch.where(old_T1 == 0, 0, sum_T1 / old_T1)
    weight_TJ = weight_TJ.masked_fill(~keep_TJ, 0)
    if normalises:
        kept_T1 = weight_TJ.sum(-1, keepdim=True)
        weight_TJ = weight_TJ * torch.where(kept_T1 == 0, 0, sum_T1 / kept_T1)
    return chosen_TJ.masked_fill(~keep_TJ, -1), weight_TJ.to(weights_TK.dtype)


def with_null_experts(rule: Rule, z_TE: Tensor, score_TE: Tensor) -> Selection:
    """The choice if m extra experts with logit c competed for k places (AdaMoE): min(k, E) ids and which of them won.

    True experts compete by their logits alone; where a true and a null expert tie, the true one wins.
    """
    count, places = int(rule.amount_in(0) or 0), min(rule.options["top_k"], z_TE.shape[-1])
    top_TJ, chosen_TJ = z_TE.topk(places, dim=-1)
    rank_J = torch.arange(places, device=z_TE.device)
    beaten_TJ = top_TJ < rule.options["logit"]
    keep_TJ = (rank_J + beaten_TJ * count < rule.options["top_k"]) & (top_TJ > -torch.inf)
    return chosen_TJ, keep_TJ


def above_threshold(rule: Rule, z_TE: Tensor, score_TE: Tensor) -> Selection:
    """Every expert whose score is larger than the threshold, the first in any case (EvoMoE, arXiv 2112.14397): ids in
    falling score and which of them stay.

    The temperature has already divided the logits: softmax(z / τ) > .001 keeps 4, 4, 4, 2 and 1 of the logits
    (1, .5, 0, -1) at τ = 2, 1, .5, .1 and .05.
    """
    sorted_TE, chosen_TE = z_TE.sort(dim=-1, descending=True, stable=True)
    first_E = torch.arange(z_TE.shape[-1], device=z_TE.device) == 0
    keep_TE = (score_TE.gather(-1, chosen_TE) > rule.options["threshold"]) | first_E
    keep_TE = keep_TE & (sorted_TE > -torch.inf)
    # Fewer slots are less work for the experts; on a GPU counting them would wait for the device.
    width = z_TE.shape[-1]
    if z_TE.device.type == "cpu" and len(z_TE):
        width = max(int(keep_TE.sum(-1).max()), 1)
    return chosen_TE[:, :width], keep_TE[:, :width]
