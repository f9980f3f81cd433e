"""How many of an expert's inner activations are at work: the share above 10⁻³ in size (MoE-X's L0, arXiv 2503.07639).

What enters the last matrix of an expert is seen where it is multiplied, whatever the experts module is: while one
expert runs alone, every operation that takes this weight, or a view of it, is watched.

Shapes: E experts, N rows of one expert, F inner width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..routers.site import Site
from .matrices import Matrix
from .watch import Seen

LEAST = 1e-3
ROWS = 256
"""Rows of an expert that are looked at."""
_LAST = re.compile(r"(^|[._])(down|w2|wo|fc2|output|second)", re.IGNORECASE)


def active_shares(site: Site, seen: Seen, matrices: Sequence[Matrix], experts: int) -> list[float | None]:
    """By expert; None for one without tokens, and where the last matrix is not seen at work."""
    last = next((matrix for matrix in matrices if _LAST.search(matrix.name)), matrices[-1])
    shares: list[float | None] = []
    for expert in range(experts):
        rows_N = (seen.ids_TK == expert).any(-1).nonzero().flatten()[:ROWS]
        if not len(rows_N):
            shares.append(None)
            continue
        with _Watch(last) as watch:
            site.passage.alone(seen.call, rows_N, torch.full_like(rows_N, expert))
        shares.append(watch.active / watch.total if watch.total else None)
    return shares


class _Watch(TorchFunctionMode):
    """Counts what is multiplied with one of the matrix's weights."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.active, self.total = 0, 0
        self._places = {one.untyped_storage().data_ptr() for one in matrix.parameters}
        shape = matrix.parameters[0].shape
        self._width = shape[-2] if matrix.transposed else shape[-1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        if len(given) > 1 and any(self._is_weight(value) for value in given):
            inputs = [v for v in given if not self._is_weight(v) and v.is_floating_point() and v.dim() > 1]
            if inputs and inputs[0].shape[-1] == self._width:
                size = inputs[0].abs()
                self.active += int((size > LEAST).sum())
                self.total += size.numel()
        return out

    def _is_weight(self, value: Tensor) -> bool:
        return value.device.type != "meta" and value.untyped_storage().data_ptr() in self._places
