"""The rows of one router in the expert sheet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.bits import outlier_score
from ...kernels.likeness import energy_at_rank, row_cosine
from ..hooks.outputs import PAIRS_AT_ONCE
from ..routers.site import Site
from .activations import active_shares
from .matrices import Matrix, matrices_of, rounded_experts
from .watch import Seen


@torch.inference_mode()
def rows_of(
    site: Site, seen: Seen | None, what: Collection[str], bits: Sequence[int], group: int, probe: int
) -> list[dict[str, Any]]:
    """One dict of `store.expert_sheet.EXPERT_SHEET` for each expert.

    Args:
        seen: the call of the layer's experts; None where no outputs are wanted.
        probe: tokens on which every expert runs, chosen for it or not.
    """
    spec = site.spec
    assert site.experts is not None
    matrices = matrices_of(site.experts, spec.num_experts, str(spec.experts))
    rows: list[dict[str, Any]] = [
        {"layer": spec.layer, "stream": spec.stream, "expert": e, **_weights(matrices, e, what)}
        for e in range(spec.num_experts)
    ]
    _add(rows, _router(site, what))
    if "spectrum" in what:
        _add(rows, _spectrum(matrices, spec.num_experts))
    if seen is None:
        return rows
    _add(rows, _usage(site, seen))
    if "outputs" in what:
        _add(rows, {"active_share": active_shares(site, seen, matrices, spec.num_experts)})
    if "quantisation" in what:
        errors = _rounding_errors(site, seen, matrices, bits, group)
        _add(rows, {"bits": [list(bits)] * len(rows), "rtn_error": errors.tolist()})
    if "similarity" in what:
        _add(rows, {"output_similarity": _similarity(site, seen, probe).tolist()})
    return rows


def _add(rows: list[dict[str, Any]], columns: dict[str, Any]) -> None:
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value


def _weights(matrices: Sequence[Matrix], expert: int, what: Collection[str]) -> dict[str, Any]:
    own = [matrix.of(expert) for matrix in matrices]
    size = [matrix.parameters[0].element_size() for matrix in matrices]
    row: dict[str, Any] = {
        "parameters": sum(one.numel() for one in own),
        "bytes": sum(one.numel() * each for one, each in zip(own, size, strict=True)),
        "matrices": [matrix.name for matrix in matrices],
    }
    if "norms" in what:
        row["norms"] = [float(one.norm()) for one in own]
    if "outliers" in what:
        row["outliers"] = [outlier_score(one.numpy()) for one in own]
    return row


def _router(site: Site, what: Collection[str]) -> dict[str, Any]:
    weight, experts = site.weight_now(), site.spec.num_experts
    if weight is None or weight.shape[0] < experts or "norms" not in what:
        return {}
    rows_EH = weight.detach()[:experts].float().cpu().numpy()
    norms = np.linalg.norm(rows_EH, axis=1)
    return {"router_norm": norms.tolist(), "router_cosine": row_cosine(rows_EH).tolist()}


def _spectrum(matrices: Sequence[Matrix], experts: int) -> dict[str, Any]:
    """Energy of the first kind of matrix, stacked over the experts."""
    stack = np.concatenate([matrices[0].of(e).numpy() for e in range(experts)])
    full = min(stack.shape)
    ranks = sorted({2**n for n in range(full.bit_length())} | {full})
    energy = np.asarray(energy_at_rank(stack, np.array(ranks))).tolist()
    return {"energy_rank": [ranks] * experts, "energy": [energy] * experts}


def _pairs(one: Seen) -> tuple[Tensor, Tensor]:
    """Rows and experts of the used slots, (N,) each."""
    rows_N = torch.arange(len(one.ids_TK), device=one.ids_TK.device).repeat_interleave(one.ids_TK.shape[-1])
    ids_N = one.ids_TK.reshape(-1)
    return rows_N[ids_N >= 0], ids_N[ids_N >= 0]


def _alone(site: Site, one: Seen, rows_N: Tensor, ids_N: Tensor) -> Tensor:
    parts = zip(rows_N.split(PAIRS_AT_ONCE), ids_N.split(PAIRS_AT_ONCE), strict=True)
    return torch.cat([site.passage.alone(one.call, rows, ids).float() for rows, ids in parts])


def _usage(site: Site, seen: Seen) -> dict[str, Any]:
    experts = site.spec.num_experts
    tokens, gate_sum, reap, easy = (torch.zeros(experts, dtype=torch.float64) for _ in range(4))
    rows_N, ids_N = _pairs(seen)
    gate_N = seen.gates_TK.reshape(-1)[seen.ids_TK.reshape(-1) >= 0]
    part_N = gate_N * _alone(site, seen, rows_N, ids_N).norm(dim=-1)
    parts = [(tokens, torch.ones_like(gate_N)), (gate_sum, gate_N), (reap, part_N)]
    if seen.change_T is not None:
        parts.append((easy, part_N * seen.change_T[rows_N].clamp_min(0)))
    for sums, values in parts:
        sums.index_add_(0, ids_N.cpu().long(), values.double().cpu())
    return {
        "tokens": tokens.long().tolist(),
        "frequency": (tokens / tokens.sum().clamp_min(1)).tolist(),
        "gate_sum": gate_sum.tolist(),
        "reap": (reap / tokens.clamp_min(1)).tolist(),
        **({} if seen.change_T is None else {"easy_ep": easy.tolist()}),
    }


def _rounding_errors(
    site: Site, seen: Seen, matrices: list[Matrix], bits: Sequence[int], group: int
) -> np.ndarray:
    """(E, B) root mean square over an expert's tokens of ‖output − output with rounded weights‖; 0 without tokens."""
    experts, (rows_N, ids_N) = site.spec.num_experts, _pairs(seen)
    exact_NH, ids = _alone(site, seen, rows_N, ids_N), ids_N.cpu().long()
    tokens_E = torch.bincount(ids, minlength=experts)
    errors = []
    for width in bits:
        with rounded_experts(matrices, width, group):
            off_N = (_alone(site, seen, rows_N, ids_N) - exact_NH).pow(2).sum(-1)
        squares_E = torch.zeros(experts, dtype=torch.float64).index_add_(0, ids, off_N.double().cpu())
        errors.append((squares_E / tokens_E.clamp_min(1)).sqrt().numpy())
    return np.stack(errors, 1)


def _similarity(site: Site, seen: Seen, probe: int) -> np.ndarray:
    """(E, E) mean cosine of the outputs of all experts on the same first tokens."""
    experts = site.spec.num_experts
    first_R = seen.real_T.nonzero().flatten()[:probe]
    rows_N = first_R.repeat(experts)
    ids_N = torch.arange(experts, device=rows_N.device).repeat_interleave(len(first_R))
    unit = torch.nn.functional.normalize(_alone(site, seen, rows_N, ids_N), dim=-1).reshape(experts, -1)
    return (unit @ unit.T).double().cpu().numpy() / max(1, len(first_R))
