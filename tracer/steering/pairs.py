"""Single pairs of product keys that a rule masks: what they add is taken off the output of their experts.

An expert of product keys is a pair (i, j) of a head, with the gate weight g1_i · g2_j. No change of either axis masks
one pair alone, so it is done behind the experts: y − Σ g1_i · g2_j · e_ij(x) over the masked pairs of a token.
e_ij(x) is what the experts module returns where both axes have weight 1 on that pair alone: the model's own code says
what an expert is. The weights of each axis of a head sum to 1, as the router gives them.

Shapes: T token rows, H heads, N keys, D hidden width, P pairs, S (token, pair) of the batch with a gate weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..routers.naming import layer_and_stack
from ..routers.site import Site
from .rows import Program
from .rules import Rule

EXPERTS = re.compile(r"MonetMo\w*DE")
"""Classes of modules that are called with (x, g1, g2)."""
AT_ONCE = 4096
"""Of S, that run in one call."""


def no_pair(rule: Rule, site: Site) -> str | None:
    """Why a rule on pairs cannot act at a router, or None."""
    keys = getattr(site.passage, "keys", None)
    if keys is None or site.spec.stream != "rows":
        return "columns: only product keys have pairs, at the stream rows"
    if not _pairs(rule, keys, site.spec.num_experts):
        return f"columns: no row and column of the rule belong to one head of {keys} keys"
    return None


@contextmanager
def masked_pairs(
    model: nn.Module, rule: Rule, site: Site, sites: Sequence[Site], program: Program
) -> Iterator[None]:
    """Mask the rule's pairs in all layers that use this router's decisions, while the context is open."""
    keys: int = site.passage.keys  # pyright: ignore[reportAttributeAccessIssue]
    pairs_P3 = torch.tensor(_pairs(rule, keys, site.spec.num_experts))

    def behind(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x, g1, g2 = args[:3]
        weight_TP = _weights(g1, g2, pairs_P3.to(x.device))
        rows = program.rows_of(rule, len(weight_TP), site.spec.router)
        if rows is not True:
            weight_TP = weight_TP * (rows.unsqueeze(-1) if isinstance(rows, Tensor) else 0)
        flat_TD = output.reshape(-1, output.shape[-1])
        for token_S, pair_S in _batches(weight_TP):
            one_SD = _alone(module, x.reshape(-1, x.shape[-1])[token_S], g1, pairs_P3.to(x.device)[pair_S])
            share_S1 = weight_TP[token_S, pair_S].unsqueeze(-1).to(one_SD.dtype)
            flat_TD = flat_TD.index_add(0, token_S, -one_SD * share_S1)
        return flat_TD.view_as(output)

    with ExitStack() as stack:
        for module in _experts_of(model, site, sites):
            stack.callback(module.register_forward_hook(behind).remove)
        yield


def _pairs(rule: Rule, keys: int, width: int) -> list[tuple[int, int, int]]:
    """(head, row, column) of every pair that the rule names."""
    rows = range(width) if rule.experts is None else rule.experts
    columns = rule.options["columns"]
    return [(r // keys, r % keys, c % keys) for r in rows for c in columns if r // keys == c // keys]


def _weights(g1: Tensor, g2: Tensor, pairs_P3: Tensor) -> Tensor:
    """(T, P) gate weight of each pair."""
    head_P, row_P, column_P = pairs_P3.T
    row_THN, column_THN = (gate.reshape(-1, *gate.shape[-2:]) for gate in (g1, g2))
    return row_THN[:, head_P, row_P] * column_THN[:, head_P, column_P]


def _batches(weight_TP: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    token, pair = weight_TP.nonzero(as_tuple=True)
    for first in range(0, len(token), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        yield token[part], pair[part]


def _alone(module: Any, x_SD: Tensor, like: Tensor, pair_S3: Tensor) -> Tensor:
    """(S, D): what the experts put out where one pair alone has weight 1."""
    at_S = torch.arange(len(x_SD), device=x_SD.device)
    gates = []
    for axis in (1, 2):
        gate_SHN = like.new_zeros(len(x_SD), *like.shape[-2:])
        gate_SHN[at_S, pair_S3[:, 0], pair_S3[:, axis]] = 1
        gates.append(gate_SHN.unsqueeze(0))
    return module.forward(x_SD.unsqueeze(0), *gates)[0]


def _experts_of(model: nn.Module, site: Site, sites: Sequence[Site]) -> list[nn.Module]:
    """The experts of the router's layer and of those after it that have no router."""
    modules = dict(model.named_modules())
    later = [other.spec.layer for other in sites if other.spec.layer > site.spec.layer]
    layers = range(site.spec.layer, min(later, default=2**31))
    return [
        module
        for path, module in modules.items()
        if EXPERTS.fullmatch(type(module).__name__) and layer_and_stack(path, modules)[0] in layers
    ]
