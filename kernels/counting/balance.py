"""How evenly experts are used, and how much one label tells about another."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, divide


def load_imbalance(counts: ArrayLike) -> dict[str, Any]:
    """Six ways to say how unevenly E experts are loaded.

    Args:
        counts: uses (or summed gate weights) of each expert, (..., E), not negative.
    Returns:
        A dict of numbers, or of (...) arrays where counts has leading axes:
        `max_over_mean`  busiest expert over the mean, 1 .. E: the slowdown of synchronous expert parallelism
        `cv`             population standard deviation over the mean, 0 .. sqrt(E - 1)
        `gini`           0 (all equal) .. 1 - 1/E (one expert takes all)
        `entropy`        nats
        `entropy_normalised`  entropy / log E, 0 .. 1
        `dead`           experts with a count of 0 (int)
        Where nothing was counted all are 0, but for `dead`, which is E.
    Raises:
        ValueError: a count that is negative, NaN or infinite, or no experts at all.
    """
    counts_E = as_amounts(counts, "counts")
    if counts_E.ndim == 0 or counts_E.shape[-1] == 0:
        raise ValueError(f"counts must have shape (..., E) with E >= 1, got {counts_E.shape}")
    num_experts = counts_E.shape[-1]
    total = counts_E.sum(-1)
    mean = total / num_experts
    rank = 2 * np.arange(1, num_experts + 1) - num_experts - 1
    share = divide(counts_E, total[..., None])
    entropy = -np.sum(share * np.log(share, out=np.zeros_like(share), where=share > 0), -1) + 0.0
    measures = {
        "max_over_mean": divide(counts_E.max(-1), mean),
        "cv": divide(counts_E.std(-1), mean),
        "gini": divide(np.maximum(np.sort(counts_E, -1) @ rank, 0.0), num_experts * total),
        "entropy": entropy,
        "entropy_normalised": divide(entropy, np.log(num_experts)),
        "dead": np.sum(counts_E == 0, -1),
    }
    return {name: value.item() if value.ndim == 0 else value for name, value in measures.items()}


def mutual_information(joint: ArrayLike) -> np.ndarray:
    """Mutual information of the two last axes, in nats.

    Args:
        joint: counts or probabilities, (..., A, B): e.g. tokens by (tag, expert), or a transition matrix.
    Returns:
        0 .. min(log A, log B), shape (...); 0 where nothing was counted.
    Raises:
        ValueError: a value that is negative, NaN or infinite, or fewer than two axes.
    Trap:
        Estimated from counts it is biased upwards by about (A - 1)(B - 1) / 2N for N independent counts, and
        tokens of one prompt are not independent: compare with labels permuted over prompts.
    """
    joint_AB = as_amounts(joint, "joint")
    if joint_AB.ndim < 2:
        raise ValueError(f"joint must have shape (..., A, B), got {joint_AB.shape}")
    p_AB = divide(joint_AB, joint_AB.sum((-2, -1), keepdims=True))
    log_p_AB, log_a, log_b = (
        np.log(p, out=np.zeros_like(p), where=p > 0)
        for p in (p_AB, p_AB.sum(-1, keepdims=True), p_AB.sum(-2, keepdims=True))
    )
    return np.maximum(np.sum(p_AB * (log_p_AB - log_a - log_b), (-2, -1)), 0.0)[()]
