"""What a Mixture-of-Experts shape is expected to save, by a published scaling law.

Source: "Towards Greater Leverage: Scaling Laws for Efficient Mixture-of-Experts Language Models", arXiv 2507.17702;
sparsity and tokens per parameter: arXiv 2508.18672. Traps: docs/methods/decisions.md.
"""

from __future__ import annotations

import math

_START, _LIMIT = 0.0163, 5.28e16
_BASE, _COMPUTE, _SQUARE, _LINEAR = 1.23, -0.0761, 0.0167, -0.117

NEAR_ACTIVATION = (0.0, 0.1)
NEAR_GRANULARITY = (2.0, 16.0)
"""Where we take the law at its word [ours]: around its worked points (A = .031 and .034, G = 12) and its best G. OLMoE
(.125, 4) and Mixtral (.25, .571) lie outside."""


def efficiency_leverage(activation: float, granularity: float, compute: float) -> float:
    """How many times more compute a dense model would need for the same loss.

    Args:
        activation: A, share of the experts (with the shared ones) that a token activates.
        granularity: G = 2 · d_model / d_expert.
        compute: C, training FLOPs.
    Returns:
        EL. (.031, 12, 1e22) → 7.245; (.034, 12, 1e22) → 6.961.
    Raises:
        ValueError: an activation outside (0, 1], a granularity or compute that is not positive.
    Trap:
        A fit of one architecture on one data mix: OLMoE (.125, 4) reads 3.31 and Mixtral (.25, .571) 1.57 outside its
        range. It says nothing of a particular trained model.
    """
    if not 0 < activation <= 1:
        raise ValueError(f"activation must lie in (0, 1], got {activation}")
    if not (granularity > 0 and compute > 0):
        raise ValueError(f"granularity and compute must be positive, got {granularity}, {compute}")
    saturated = 1 / (1 / (activation + 1 / (1 / _START - 1 / _LIMIT)) + 1 / _LIMIT)
    log_g = math.log2(granularity)
    exponent = _BASE + _COMPUTE * math.log10(compute) + _SQUARE * log_g**2 + _LINEAR * log_g
    return saturated**exponent


def best_granularity() -> float:
    """The granularity of the largest leverage: 11.34, whatever A and C."""
    return 2 ** (-_LINEAR / (2 * _SQUARE))


def outside_fit(activation: float, granularity: float) -> list[str]:
    """Which of the two lies outside the range in which we take the law at its word; empty where none does."""
    given = (("activation", activation, NEAR_ACTIVATION), ("granularity", granularity, NEAR_GRANULARITY))
    return [
        f"{name} {value:.3g} is outside {low:g} to {high:g}, around the law's worked points"
        for name, value, (low, high) in given
        if not low <= value <= high
    ]


def granularity(hidden_size: int, expert_parameters: float) -> float:
    """G = 2 · d_model / d_expert of experts with three matrices (gate, up, down): 6 · d² / parameters of an expert."""
    if hidden_size <= 0 or expert_parameters <= 0:
        raise ValueError("hidden_size and expert_parameters must be positive")
    return 6 * hidden_size**2 / expert_parameters


def sparsity(top_k: float, num_experts: int) -> float:
    """1 − k / E: share of the routed experts that a token leaves out. Source: arXiv 2508.18672."""
    if not 0 <= top_k <= num_experts:
        raise ValueError(f"top_k must lie in 0 .. {num_experts}, got {top_k}")
    return 1 - top_k / num_experts


def tokens_per_parameter(tokens: float, parameters: float) -> float:
    """Training tokens for each parameter of the model. Source: arXiv 2508.18672."""
    if parameters <= 0:
        raise ValueError(f"parameters must be positive, got {parameters}")
    return tokens / parameters
