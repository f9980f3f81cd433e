"""The rule `mask`: slots that a `SlotMask` names are dropped, token by token.

A slot is a rank: the chosen experts of a token in falling gate weight, from 0. Slot 0 is never dropped.

Shapes: T token rows, K slots, B sequences, S tokens of this call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SteeringError
from ..routers.site import Site
from .at_selection import emptied, kept_ranks
from .replay import as_tensor, checked, read_by
from .rows import Program
from .rules import Rule
from .slot_mask import EverySlot, FileMask, slot_mask

Selection = tuple[Tensor, Tensor]


def masked_slots(rule: Rule, site: Site, program: Program, selection: Selection) -> tuple[Tensor, Selection]:
    """The rows that the rule acts on, (T,) bool, and the selection (T, K) after it."""
    ids_TK, weights_TK = selection
    rows_T = as_tensor(program.rows_of(rule, len(ids_TK), site.spec.router), len(ids_TK))
    stays_TK = _stays(rule, site, program, rows_T.cpu(), ids_TK.shape[-1]).to(ids_TK.device)
    keep_TK = kept_ranks(lambda _, rank_K: stays_TK | (rank_K == 0), ids_TK, weights_TK)
    drop_TK = ~keep_TK & (ids_TK >= 0)
    new = emptied(ids_TK, weights_TK, drop_TK, renormalise=bool(rule.options["renormalise"]))
    return rows_T.to(ids_TK.device), new


def _stays(rule: Rule, site: Site, program: Program, rows_T: Tensor, width: int) -> Tensor:
    """(T, K) bool, by rank."""
    mask, spec, rows = slot_mask(rule.options["mask"], rule.options["trace"]), site.spec, program.rows
    if isinstance(mask, EverySlot):
        return torch.from_numpy(mask.keep(spec, [0], 0, width)).expand(len(rows_T), -1)
    assert isinstance(mask, FileMask)
    batch, length = rows.shape
    if len(rows_T) != batch * length:
        raise SteeringError(
            f"{spec.router} decides on {len(rows_T)} rows, not on the {batch} x {length} tokens of the batch, so a "
            "mask cannot act there"
        )
    stays_BSK = torch.ones((batch, length, width), dtype=torch.bool)
    acting_BS = checked(rows.fed(), rows_T.view(batch, length), mask.trace)
    for sequence, at, tokens, first in read_by(rows.fed(), acting_BS):
        stays_BSK[sequence, at] = torch.from_numpy(mask.keep(spec, tokens, first, width))
    return stays_BSK.view(-1, width)
