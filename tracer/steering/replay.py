"""The rule `replay`: the experts of a recorded decision are executed in place of the router's own choice.

1. Every row of the call is given its recorded event: by the token ids that its sequence has read, or in the order of
   the calls.
2. The recorded experts go to the slots where the router put the same ones, the others into what is left: where
   nothing differs, nothing is moved, and the sum over experts is rounded as before.
3. Gate weights are the recorded ones, or `live`: the router's own scores of those experts, scaled as the model does.

Shapes: T token rows, K slots, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SteeringError
from ..routers.passages import Passage
from ..routers.scoring import router_probabilities
from ..routers.site import Site
from .recorded import CallsRecorded, Recorded, TraceRecorded, recorded
from .rows import Fed, Program
from .rules import Rule

Selection = tuple[Tensor, Tensor]


def replayed(
    rule: Rule, site: Site, program: Program, selection: Selection, logits_TE: Tensor | None
) -> tuple[Tensor, Selection]:
    """The rows that are replayed, (T,) bool, and their ids and weights, (T, K)."""
    spec, (ids_TK, weights_TK) = site.spec, selection
    source = recorded(rule.options["trace"])
    events = source.events(spec)
    rows_T, place_T = _places(source, rule, site, program, len(ids_TK))
    rows_T, place_T = rows_T.to(ids_TK.device), place_T.to(ids_TK.device)
    new_ids, old_ids = _same_width(_taken(events.ids_MK, place_T, ids_TK.device).long(), ids_TK, -1)
    order_TK = _into_slots(old_ids, new_ids)
    new_ids = new_ids.gather(-1, order_TK)
    if rule.options["weights"] == "live":
        new_weights = _live_weights(new_ids, selection, logits_TE, site)
    else:
        assert events.weights_MK is not None
        new_weights, _ = _same_width(_taken(events.weights_MK, place_T, ids_TK.device), weights_TK, 0)
        new_weights = new_weights.gather(-1, order_TK).masked_fill(new_ids < 0, 0).to(weights_TK.dtype)
    _shared_follow(site.passage, rows_T, selection, (new_ids, new_weights))
    return rows_T, (new_ids, new_weights)


def _taken(values_MK: np.ndarray, place_T: Tensor, device: torch.device) -> Tensor:
    """Those rows, on the model's device: what is taken is small, the whole may not be."""
    return torch.from_numpy(values_MK[place_T.cpu().numpy()]).to(device)


def _same_width(new_TK: Tensor, old_TK: Tensor, empty: int) -> tuple[Tensor, Tensor]:
    width = max(new_TK.shape[-1], old_TK.shape[-1])
    padded = (F.pad(x, (0, width - x.shape[-1]), value=empty) for x in (new_TK, old_TK))
    return tuple(padded)  # pyright: ignore[reportReturnType]


def _into_slots(old_TK: Tensor, new_TK: Tensor) -> Tensor:
    """(T, K): which recorded expert each slot takes; an expert that was in a slot already stays there."""
    same_TKK = (old_TK.unsqueeze(-1) == new_TK.unsqueeze(-2)) & (old_TK >= 0).unsqueeze(-1)
    stays_TK, from_TK = same_TKK.any(-1), same_TKK.long().argmax(-1)
    # Experts without a slot yet come first, then empty ones, then those that have a slot.
    rank_TK = torch.where(same_TKK.any(-2), 2, (new_TK < 0).long())
    waiting_TK = rank_TK.argsort(dim=-1, stable=True)
    place_TK = ((~stays_TK).long().cumsum(-1) - 1).clamp(min=0)
    return torch.where(stays_TK, from_TK, waiting_TK.gather(-1, place_TK))


def _live_weights(new_TK: Tensor, selection: Selection, logits_TE: Tensor | None, site: Site) -> Tensor:
    """The router's scores of these experts, with the factor or the sum that this token's own weights had."""
    ids_TK, weights_TK = selection
    score_TE = router_probabilities(logits_TE, site.spec.scoring)
    if score_TE is None:
        raise SteeringError(
            f"replay with live weights needs the router's scores, which layer {site.spec.layer} does not give; "
            "take weights: recorded"
        )
    old_T1 = _scores(score_TE, ids_TK).sum(-1, keepdim=True)
    sum_T1 = _sum(selection)
    new_score_TK = _scores(score_TE, new_TK)
    below_T1 = new_score_TK.sum(-1, keepdim=True) if site.normalises else old_T1
    if site.passage.shared_T1 is not None:
        # Chosen and shared experts together have a fixed sum; the shared ones' scores stay.
        shared_T1 = _shared(site.passage)
        below_T1 = new_score_TK.sum(-1, keepdim=True) + shared_T1 * torch.where(
            sum_T1 == 0, 0, old_T1 / sum_T1
        )
        sum_T1 = sum_T1 + shared_T1
    new_weights = new_score_TK * torch.where(below_T1 == 0, 0, sum_T1 / below_T1)
    # Where the choice is the router's own, so are its weights, to the last bit.
    padded_ids, padded_weights = (
        F.pad(x, (0, new_TK.shape[-1] - x.shape[-1]), value=empty)
        for x, empty in ((ids_TK, -1), (weights_TK, 0))
    )
    own_T1 = (padded_ids == new_TK).all(-1, keepdim=True)
    return torch.where(own_T1, padded_weights, new_weights.to(weights_TK.dtype))


def _shared_follow(passage: Passage, rows_T: Tensor, old: Selection, new: Selection) -> None:
    """Where shared experts are normalised with the chosen ones, they get what the new weights leave of the sum."""
    if passage.shared_T1 is None:
        return
    shared_T1, old_T1, new_T1 = _shared(passage), _sum(old), _sum(new)
    moved_T1 = rows_T.unsqueeze(-1) & (new_T1 != old_T1) & (passage.shared_T1 != 0)
    left_T1 = (old_T1 + shared_T1 - new_T1).clamp(min=0) / passage.shared_T1
    passage.shared_factor_T1 = torch.where(moved_T1, left_T1, _factor(passage))


def _shared(passage: Passage) -> Tensor:
    assert passage.shared_T1 is not None
    return passage.shared_T1 * _factor(passage)


def _factor(passage: Passage) -> Tensor:
    """What an earlier rule made of the shared experts' weights."""
    assert passage.shared_T1 is not None
    return (
        torch.ones_like(passage.shared_T1) if passage.shared_factor_T1 is None else passage.shared_factor_T1
    )


def _sum(selection: Selection) -> Tensor:
    ids_TK, weights_TK = selection
    return weights_TK.float().masked_fill(ids_TK < 0, 0).sum(-1, keepdim=True)


def _scores(score_TE: Tensor, ids_TK: Tensor) -> Tensor:
    return score_TE.gather(-1, ids_TK.clamp(min=0)).masked_fill(ids_TK < 0, 0)


def _places(source: Recorded, rule: Rule, site: Site, program: Program, count: int) -> tuple[Tensor, Tensor]:
    """Which rows are replayed (T,), and the recorded event of each (0 where it is not)."""
    spec, rows = site.spec, program.rows
    if isinstance(source, CallsRecorded):
        return _in_order(source, rule, site, program, count)
    acting = program.rows_of(rule, count, spec.router)
    if acting is False or not isinstance(source, TraceRecorded):
        return as_tensor(acting, count), torch.zeros(count, dtype=torch.int64)
    batch, length = rows.shape
    if count != batch * length:
        raise SteeringError(
            f"{spec.router} decides on {count} rows, not on the {batch} x {length} tokens of the batch, so a trace "
            "cannot be replayed there"
        )
    acting_BS = as_tensor(acting, count).cpu().view(batch, length)
    acting_BS = checked(rows.fed(), acting_BS, source)
    place_BS = torch.zeros((batch, length), dtype=torch.int64)
    for sequence, at, tokens, first in read_by(rows.fed(), acting_BS):
        place_BS[sequence, at] = torch.from_numpy(source.places(spec, tokens, first))
    return acting_BS.reshape(-1), place_BS.reshape(-1)


def checked(fed: Fed, acting_BS: Tensor, trace: TraceRecorded) -> Tensor:
    """The acting tokens that the trace must know: no padding, and nothing that a sequence is fed after its end, while
    others of its batch go on. A text that the trace holds beyond such an end is still its own."""
    acting_BS = acting_BS & fed.real_BS
    for sequence, (ended, tokens) in enumerate(zip(fed.ended, fed.tokens, strict=True)):
        if ended and not trace.holds(tokens):
            acting_BS[sequence] = False
    return acting_BS


def read_by(fed: Fed, acting_BS: Tensor) -> Iterator[tuple[int, Tensor, list[int], int]]:
    """What the sequences with an acting token have read up to the last of them.

    Args:
        acting_BS: from `checked`.
    Yields:
        The sequence's number, places in this call from its first to its last acting token (padding left out), its
        tokens up to there, and which of them is the first acting one.
    """
    for sequence in torch.nonzero(acting_BS.any(-1)).flatten().tolist():
        real = fed.real_BS[sequence]
        tokens, chosen = fed.tokens[sequence], acting_BS[sequence][real].numpy()
        first = len(tokens) - int(real.sum())
        # What lies after the last acting token need not be in the trace.
        upto, since = int(np.flatnonzero(chosen)[-1]) + 1, int(np.flatnonzero(chosen)[0])
        yield sequence, torch.nonzero(real).flatten()[since:upto], tokens[: first + upto], first + since


def _in_order(
    source: CallsRecorded, rule: Rule, site: Site, program: Program, count: int
) -> tuple[Tensor, Tensor]:
    spec, rows = site.spec, program.rows
    key = (id(source), *spec.key)
    start, known = rows.replayed.get(key, 0), len(source.events(spec).ids_MK)
    if start + count > known:
        raise SteeringError(
            f"nothing to replay: {known} rows were recorded in layer {spec.layer} ({spec.stream}), the model routes "
            f"row {start + count}"
        )
    rows.replayed[key] = start + count
    return as_tensor(program.rows_of(rule, count, spec.router), count), torch.arange(start, start + count)


def as_tensor(rows: Tensor | bool, count: int) -> Tensor:
    return rows if isinstance(rows, Tensor) else torch.full((count,), rows)
