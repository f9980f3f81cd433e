"""From router logits to router probabilities, with the model's own scoring function.

Shapes: T tokens, E experts. Nothing here imports torch: the app checks profiles with this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def _sqrt_softplus(z_TE: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.softplus(z_TE).sqrt()


SCORING: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z_TE: z_TE.softmax(-1),
    "softmax_topk": lambda z_TE: z_TE.softmax(-1),
    "sigmoid": lambda z_TE: z_TE.sigmoid(),
    "sqrtsoftplus": _sqrt_softplus,
}
"""By `RouterSpec.scoring`. `softmax_topk` routers take the softmax over the chosen logits only; their
probabilities over all experts are the softmax over all, to which the gate weights are proportional."""


def router_probabilities(logits_TE: Tensor | None, scoring: str) -> Tensor | None:
    """Router probabilities p from router logits z, before any selection.

    Args:
        logits_TE: router logits, shape (..., E), any float dtype, or None.
        scoring: `RouterSpec.scoring`.
    Returns:
        float32 of the same shape, or None where there are no logits or the scoring function is not known.
        Sigmoid and other elementwise scores do not sum to 1 over the experts.
    """
    score = SCORING.get(scoring)
    return None if logits_TE is None or score is None else score(logits_TE.float())
