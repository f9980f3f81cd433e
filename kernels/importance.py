"""Which experts and which tokens matter: scores for pruning, mixed precision and calibration sets.

A score is a reason to look, not a verdict: kept sets stand beside random ones, and are fitted on other prompts than
those they are judged by. Definitions and traps: docs/methods/decisions.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import as_amounts, as_ids, as_real, as_slot_weights, check_range, check_size, divide


def frequency_score(ids: ArrayLike, num_experts: int) -> np.ndarray:
    """Share of all choices that go to each expert.

    Args:
        ids: (T, k) chosen experts, -1 = empty slot.
    Returns:
        (E,) N_e / sum N; 0 where nothing was chosen.
    """
    counts = _sums(ids, None, num_experts)
    return divide(counts, counts.sum())


def gate_score(ids: ArrayLike, gates: ArrayLike, num_experts: int) -> np.ndarray:
    """Sum of the gate weights that each expert gets, (E,). NaN in empty slots is ignored."""
    return _sums(ids, gates, num_experts)


def reap_score(ids: ArrayLike, gates: ArrayLike, norms: ArrayLike, num_experts: int) -> np.ndarray:
    """Mean over an expert's tokens of gate weight times the norm of its output.

    Args:
        ids, gates, norms: (T, k); norms are of outputs before their gate weight.
    Returns:
        (E,); 0 for an expert without tokens.
    Source:
        REAP, arXiv 2510.13999.
    Trap:
        A mean: an expert with one token can come first. Look at the number of tokens beside it.
    """
    return divide(_sums(ids, _product(ids, gates, norms), num_experts), _sums(ids, None, num_experts))


def easy_ep_score(
    ids: ArrayLike, gates: ArrayLike, norms: ArrayLike, changes: ArrayLike, num_experts: int
) -> np.ndarray:
    """Sum over an expert's tokens of gate · output norm · max(0, change).

    Args:
        changes: (T,) 1 − cos(h, h') of a token, h and h' the residual stream before and after the layer's routed
            experts; negative ones (rounding) count as 0.
    Returns:
        (E,). Of a trace, changes = 1 − `similarity`.
    Source:
        EASY-EP, arXiv 2504.06792, released code.
    """
    change_T = np.maximum(0, as_real(changes, "changes").astype(np.float64))
    part_TK = _product(ids, gates, norms)
    if change_T.shape != part_TK.shape[:1]:
        raise ValueError(f"changes have shape {change_T.shape}, ids {part_TK.shape}")
    return _sums(ids, part_TK * change_T[:, None], num_experts)


def mix_domains(scores: ArrayLike) -> np.ndarray:
    """Scores of several domains as one: each divided by its sum over the experts of a layer, then averaged.

    Args:
        scores: (D, ..., E), not negative.
    Returns:
        (..., E). (4,1,1), (1,1,8) → (.383333, .133333, .483333).
    Source:
        EASY-EP, arXiv 2504.06792.
    """
    domains = as_amounts(scores, "scores")
    return divide(domains, domains.sum(-1, keepdims=True)).mean(0)


def outlier_score(weight: ArrayLike) -> float:
    """How far a matrix's largest entries stand out of their column.

    Args:
        weight: (outputs, inputs).
    Returns:
        max over columns j of max_i |W_ij| / mean_i |W_ij|. [[1,−1],[3,−1],[1,−1],[1,1]] → 2.0.
    Source:
        QuantMoE-Bench, arXiv 2406.08155.
    """
    size = np.abs(as_real(weight, "weight").astype(np.float64))
    if size.ndim != 2 or size.size == 0:
        raise ValueError(f"weight must be a matrix, got {size.shape}")
    return float(divide(size.max(0), size.mean(0)).max())


def block_importance(before: ArrayLike, after: ArrayLike) -> float:
    """Mean over tokens of 1 − cos between the input and the output of a block.

    Args:
        before, after: (T, d).
    Source:
        QuantMoE-Bench, arXiv 2406.08155. A zero vector has cosine 0 to everything.
    """
    a, b = (
        as_real(values, name).astype(np.float64) for values, name in ((before, "before"), (after, "after"))
    )
    if a.shape != b.shape or a.ndim != 2 or len(a) == 0:
        raise ValueError(f"before and after must have the same shape (T, d), got {a.shape} and {b.shape}")
    cosine = divide((a * b).sum(1), np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(1 - cosine.mean())


class OnlineDropping(NamedTuple):
    """Which tokens would run without their second expert."""

    mu: float
    dropped: np.ndarray
    """(T,) bool."""


def online_dropping(weights: ArrayLike, mu: float | None = None) -> OnlineDropping:
    """A token's second expert is dropped where g₂ < μ · g₁.

    Args:
        weights: (T, 2) gate weights, the larger first; further columns are ignored.
        mu: the median of g₂ / g₁ over the tokens where None.
    Returns:
        (.6,.4), (.9,.1), (.7,.3), (.55,.45) → μ = .547619; the second and third tokens are dropped.
    Source:
        MC-MoE, arXiv 2410.06270.
    """
    gates = as_amounts(weights, "weights")
    if gates.ndim != 2 or gates.shape[1] < 2:
        raise ValueError(f"weights must have shape (T, 2), got {gates.shape}")
    first, second = gates[:, 0], gates[:, 1]
    if mu is None:
        mu = float(np.median(divide(second, first))) if len(gates) else 0.0
    return OnlineDropping(mu, second < mu * first)


def token_importance(l1: ArrayLike, attention: ArrayLike) -> np.ndarray:
    """How much later tokens rely on each token: ‖x_j‖₁ times the mean attention that later tokens pay to it.

    Args:
        l1: (T,) L1 norm of each token's hidden state.
        attention: (T, T) or (heads, T, T): row i is what token i pays.
    Returns:
        (T,); the last token, which no later one sees, has 0.
    Source:
        MC-MoE, arXiv 2410.06270, as the paper has it. Its released code sums whole columns of a causal softmax in a way
        that is constant over tokens; that is not done here.
    """
    size, paid = as_amounts(l1, "l1"), as_amounts(attention, "attention")
    paid = paid.mean(0) if paid.ndim == 3 else paid
    if paid.shape != (len(size), len(size)):
        raise ValueError(f"attention must have shape ({len(size)}, {len(size)}), got {paid.shape}")
    later = np.arange(len(size) - 1, -1, -1)
    return size * divide(np.tril(paid, -1).sum(0), later)


def calibration_sigma(usage: ArrayLike) -> float:
    """How unevenly a set of prompts uses experts: mean over layers of the sample standard deviation of usage.

    Args:
        usage: (L, E) shares of each layer's choices (or anything proportional to it: rows are divided by their sums).
    Returns:
        (.5,.25,.125,.125) and an even layer → .0883883. 0 is perfectly even.
    Source:
        MoEQuant, arXiv 2505.03804.
    """
    rows = np.atleast_2d(as_amounts(usage, "usage"))
    if rows.shape[-1] < 2:
        return 0.0
    return float(divide(rows, rows.sum(-1, keepdims=True)).std(-1, ddof=1).mean())


class BalancedSubset(NamedTuple):
    """Prompts whose summed usage is as even as the greedy choice makes it."""

    picked: np.ndarray
    """(n,) prompts in the order in which they were taken."""
    sigma: np.ndarray
    """(n,) `calibration_sigma` of the set after each."""


def balanced_subset(counts: ArrayLike, tokens: ArrayLike, n: int) -> BalancedSubset:
    """Prompts for a calibration set that reaches all experts: each step takes the one that makes usage most even.

    Args:
        counts: (P, L, E) choices of each expert by each prompt.
        tokens: (P,) tokens of each prompt: of equals the longer one is taken. Prompts without tokens never are.
        n: how many.
    Raises:
        ValueError: fewer than n prompts with tokens.
    Source:
        Ours, for the balance that MoEQuant (arXiv 2505.03804) asks for: not the paper's text generation.
    """
    counts_PLE, tokens_P = as_amounts(counts, "counts"), as_amounts(tokens, "tokens")
    if counts_PLE.ndim != 3 or tokens_P.shape != counts_PLE.shape[:1]:
        raise ValueError(
            f"counts must be (P, L, E) and tokens (P,), got {counts_PLE.shape}, {tokens_P.shape}"
        )
    left = np.flatnonzero(tokens_P > 0)
    if check_size(n, "n") > len(left):
        raise ValueError(f"n is {n}, but only {len(left)} prompts have tokens")
    left = left[np.argsort(-tokens_P[left], kind="stable")]
    total, picked, sigmas = np.zeros(counts_PLE.shape[1:]), [], []
    for _ in range(n):
        sigma = _sigma_after(total, counts_PLE, left)
        best = int(np.argmin(np.round(sigma, 12)))
        picked.append(left[best])
        sigmas.append(sigma[best])
        total += counts_PLE[left[best]]
        left = np.delete(left, best)
    return BalancedSubset(np.array(picked), np.array(sigmas))


def _sigma_after(total_LE: np.ndarray, counts_PLE: np.ndarray, left: np.ndarray) -> np.ndarray:
    """`calibration_sigma` of the total with each of the prompts that are left."""
    experts = total_LE.shape[1]
    out = np.zeros(len(left))
    step = max(1, (1 << 22) // max(1, total_LE.size))
    for start in range(0, len(left), step):
        sums = total_LE + counts_PLE[left[start : start + step]]
        shares = divide(sums, sums.sum(-1, keepdims=True))
        if experts > 1:
            out[start : start + step] = shares.std(-1, ddof=1).mean(-1)
    return out


def _product(ids: ArrayLike, gates: ArrayLike, norms: ArrayLike) -> np.ndarray:
    ids_TK = as_ids(ids)
    product = as_slot_weights(gates, ids_TK).astype(np.float64) * as_slot_weights(norms, ids_TK)
    return product


def _sums(ids: ArrayLike, values: ArrayLike | None, num_experts: int) -> np.ndarray:
    """(E,) sum of the values of each expert's slots, or their number."""
    ids_TK = as_ids(ids)
    check_range(ids_TK, check_size(num_experts, "num_experts"), "ids")
    used = ids_TK >= 0
    if values is None:
        return np.bincount(ids_TK[used].astype(np.int64), minlength=num_experts)
    slots = as_slot_weights(values, ids_TK)[used].astype(np.float64)
    if np.isnan(slots).any():
        at = np.argwhere(used)[int(np.argmax(np.isnan(slots)))]
        raise ValueError(f"a value of ids[{at[0]}, {at[1]}] is NaN")
    return np.bincount(ids_TK[used].astype(np.int64), weights=slots, minlength=num_experts)
