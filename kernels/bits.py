"""How many bits each expert gets: costs, the program that spends a budget, and plain alternatives.

Definitions and traps: docs/methods/decisions.md. Errors of rounding come from rounding to nearest, not from GPTQ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import as_amounts, as_labels, as_real, check_size
from ._milp import Rows, gap_of, solve
from .importance import block_importance, outlier_score

__all__ = [
    "Allocation",
    "SolvedAllocation",
    "allocate_bits",
    "bits_by_rank",
    "block_importance",
    "budget_range",
    "mc_moe_cost",
    "outlier_score",
    "round_to_nearest",
    "solve_bits",
]

SECONDS = 10.0


class Allocation(NamedTuple):
    """Bits of each expert, and the cost of all together."""

    bits: np.ndarray
    cost: float


class SolvedAllocation(NamedTuple):
    """The same, with how far from the best it can be at most."""

    bits: np.ndarray
    cost: float
    gap: float
    """Share of the cost that a better choice could save at most; 0 is optimal."""


def mc_moe_cost(
    phi: ArrayLike, w: ArrayLike, eps: ArrayLike, exponents: tuple[float, float, float] = (1, 1.5, 1)
) -> np.ndarray:
    """What quantising an expert to each width costs: φ^α · w^β · ε^γ.

    Args:
        phi: (E,) share of tokens that choose the expert.
        w: (E,) mean router probability that it gets, before renormalising over the chosen.
        eps: (E, B) error of the layer's output with this expert at each width.
        exponents: α, β, γ.
    Returns:
        (E, B).
    Source:
        MC-MoE, arXiv 2410.06270. The released code's third exponent is 1, not 2 as printed; with it all 288 of the
        released Mixtral solutions are reproduced.
    """
    phi_E, w_E, eps_EB = as_amounts(phi, "phi"), as_amounts(w, "w"), as_amounts(eps, "eps")
    if eps_EB.ndim != 2 or phi_E.shape != w_E.shape or phi_E.shape != eps_EB.shape[:1]:
        raise ValueError(
            f"phi and w must be (E,), eps (E, B); got {phi_E.shape}, {w_E.shape}, {eps_EB.shape}"
        )
    alpha, beta, gamma = exponents
    return (phi_E**alpha * w_E**beta)[:, None] * eps_EB**gamma


def allocate_bits(
    cost: ArrayLike, budget: float, bits: Sequence[int] = (1, 2, 3), at_least: Sequence[int] = (2, 3)
) -> Allocation:
    """The cheapest bits of experts under a budget; see `solve_bits`."""
    found = solve_bits(cost, budget, bits, at_least)
    return Allocation(found.bits, found.cost)


def solve_bits(
    cost: ArrayLike,
    budget: float,
    bits: Sequence[int] = (1, 2, 3),
    at_least: Sequence[int] = (2, 3),
    *,
    layers: ArrayLike | None = None,
    seconds: float = SECONDS,
) -> SolvedAllocation:
    """The cheapest bits of experts under a budget.

    Args:
        cost: (E, B) cost of each expert at each of `bits`.
        budget: the sum of bits is at most this.
        at_least: widths that at least one expert (of each layer) has.
        layers: (E,) layer of each expert, where experts of several layers share one budget.
        seconds: time limit of the solver.
    Returns:
        Bits (E,), the sum of costs, the gap.
    Raises:
        ValueError: the budget can't be met (the message has the least and the most), or a width in `at_least` that
            is not in `bits`.
    Source:
        MC-MoE, arXiv 2410.06270: a binary program, solved by HiGHS.
    """
    cost_EB = as_amounts(cost, "cost")
    if cost_EB.ndim != 2 or cost_EB.shape[1] != len(bits) or len(cost_EB) == 0:
        raise ValueError(f"cost must have shape (E, {len(bits)}), got {cost_EB.shape}")
    layer_E = (
        np.zeros(len(cost_EB), np.int64) if layers is None else as_labels(layers, "layers", len(cost_EB))
    )
    least, most = budget_range(layer_E, bits, at_least)
    if not budget >= least:
        raise ValueError(
            f"a budget of {budget:g} bits can't be met: {len(cost_EB)} experts take {least} to {most} bits"
        )
    rows = _conditions(layer_E, budget, bits, at_least)
    # Costs of about 1 keep the solver's tolerances meaningful.
    scale = cost_EB.max() or 1.0
    found = solve(cost_EB.ravel() / scale, rows, np.ones(cost_EB.size, bool), seconds)
    if found.x is None:
        raise ValueError(f"the solver found no allocation within {seconds:g} seconds")
    chosen = found.x.reshape(cost_EB.shape).argmax(1)
    total = float(cost_EB[np.arange(len(cost_EB)), chosen].sum())
    return SolvedAllocation(np.asarray(bits)[chosen], total, gap_of(total, found.bound * scale))


def budget_range(layers: ArrayLike, bits: Sequence[int], at_least: Sequence[int] = ()) -> tuple[int, int]:
    """The least and the most bits that experts can take together.

    Args:
        layers: (E,) layer of each expert.
    Raises:
        ValueError: a width in `at_least` that is not in `bits`, or a layer with fewer experts than those.
    """
    needed = sorted(set(at_least))
    if unknown := [width for width in needed if width not in bits]:
        raise ValueError(
            f"at_least asks for {unknown[0]} bits, but the widths are {', '.join(map(str, bits))}"
        )
    sizes = np.unique(np.asarray(layers), return_counts=True)[1]
    if len(sizes) and sizes.min() < len(needed):
        raise ValueError(f"a layer of {sizes.min()} experts can't have {len(needed)} different widths")
    free = sizes.sum() - len(sizes) * len(needed)
    fixed = len(sizes) * sum(needed)
    return int(fixed + free * min(bits)), int(fixed + free * max(bits))


def _conditions(layer_E: np.ndarray, budget: float, bits: Sequence[int], at_least: Sequence[int]) -> Rows:
    experts, widths = len(layer_E), len(bits)
    variable_EB = np.arange(experts * widths).reshape(experts, widths)
    rows = Rows(experts * widths)
    for row in variable_EB:
        rows.add(row, 1, 1, 1)
    rows.add(variable_EB, np.tile(np.asarray(bits, np.float64), experts), -np.inf, math.floor(budget + 1e-9))
    for layer in np.unique(layer_E):
        for width in set(at_least):
            rows.add(variable_EB[layer_E == layer, list(bits).index(width)], 1, 1, np.inf)
    return rows


def bits_by_rank(score: ArrayLike, budget: float, bits: Sequence[int] = (2, 4)) -> np.ndarray:
    """A plain alternative: the experts with the largest scores get the wider of two widths, as many as fit.

    Args:
        score: (E,) any measure of what should keep its precision: usage, outliers, importance.
        budget: the sum of bits is at most this.
        bits: two widths.
    Returns:
        (E,) bits. Of equal scores the lower number goes first.
    Source:
        QuantMoE-Bench, arXiv 2406.08155.
    """
    score_E = as_real(score, "score").astype(np.float64)
    low, high = sorted(bits)
    if low == high:
        raise ValueError(f"bits must be two different widths, got {low} twice")
    if budget < low * len(score_E):
        raise ValueError(
            f"a budget of {budget:g} bits can't be met: {len(score_E)} experts take {low * len(score_E)} to "
            f"{high * len(score_E)} bits"
        )
    wide = min(len(score_E), int((budget - low * len(score_E) + 1e-9) // (high - low)))
    out = np.full(len(score_E), low)
    out[np.argsort(-score_E, kind="stable")[:wide]] = high
    return out


def round_to_nearest(weight: ArrayLike, bits: int, group: int = 128) -> np.ndarray:
    """A matrix as it reads after rounding to 2^bits levels, with a scale and an offset for each group of inputs.

    Args:
        weight: (outputs, inputs).
        bits: 1 and up.
        group: inputs that share a scale and an offset; the last group may be smaller.
    Returns:
        The matrix in float32. Asymmetric: levels lie evenly from the group's least to its largest value, so that
        a group with two different values is exact at every width.
    Source:
        Rounding to nearest (RTN), the plainest quantiser. GPTQ and AWQ reach smaller errors.
    """
    levels = (1 << check_size(bits, "bits")) - 1
    values = as_real(weight, "weight").astype(np.float32)
    if values.ndim != 2:
        raise ValueError(f"weight must be a matrix, got {values.shape}")
    out = np.empty_like(values)
    for start in range(0, values.shape[1], check_size(group, "group")):
        block = values[:, start : start + group]
        low = block.min(1, keepdims=True)
        step = (block.max(1, keepdims=True) - low) / levels
        code = np.round(np.divide(block - low, step, out=np.zeros_like(block), where=step > 0))
        out[:, start : start + group] = low + code * step
    return out
