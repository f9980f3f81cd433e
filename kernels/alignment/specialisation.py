"""Which experts a language or a task uses more than the pivot does.

Source: Bandarkar et al. 2025, arXiv 2510.04694 (tau from 0.25 to 0.5 there).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_real, divide

KINDS = ("none", "language-specific", "multilingual", "task", "shared")
"""What `expert_kinds` numbers from 0."""


def selection_frequency(counts: ArrayLike, tokens: ArrayLike) -> np.ndarray:
    """Mean over sequences of the share of a sequence's tokens that choose each expert.

    Args:
        counts: tokens that choose the expert, (S, ..., E): S sequences.
        tokens: tokens of the sequence, (S,) or (S, ...) as counts has leading axes.
    Returns:
        (..., E) in [0, 1]; it sums to k over experts where no slot is empty.
    Raises:
        ValueError: no sequences, shapes that do not fit, more choices than tokens.
    """
    counts_SE = as_amounts(counts, "counts")
    tokens_S = as_amounts(tokens, "tokens")
    if counts_SE.ndim < 2 or len(counts_SE) == 0 or tokens_S.shape != counts_SE.shape[: tokens_S.ndim]:
        raise ValueError(
            f"counts must be (S, ..., E) and tokens (S,), got {counts_SE.shape}, {tokens_S.shape}"
        )
    tokens_SE = tokens_S.reshape(tokens_S.shape + (1,) * (counts_SE.ndim - tokens_S.ndim))
    if (counts_SE > tokens_SE).any():
        raise ValueError("an expert was chosen by more tokens than its sequence has")
    return divide(counts_SE, tokens_SE).mean(0)


def specialised_experts(freq_target: ArrayLike, freq_base: ArrayLike, tau: float) -> np.ndarray:
    """Experts that the target uses more often than the base, by more than tau.

    Args:
        freq_target, freq_base: selection frequencies, (..., E), see `selection_frequency`; leading axes
            broadcast.
        tau: threshold on the difference; the paper uses 0.25 to 0.5.
    Returns:
        Boolean mask (..., E): freq_target - freq_base > tau.
    Raises:
        ValueError: a frequency outside [0, 1] or NaN, a NaN tau, shapes that do not fit.
    Trap:
        With short or few sequences a frequency is noisy, and the maximum over many experts more so: look at the
        count of specialised experts against tau beside that of a random split of the base.
    """
    target_E, base_E = _frequencies(freq_target, "freq_target"), _frequencies(freq_base, "freq_base")
    if np.isnan(tau):
        raise ValueError("tau is NaN")
    if target_E.shape[-1:] != base_E.shape[-1:]:
        raise ValueError(f"freq_target has shape {target_E.shape}, freq_base {base_E.shape}")
    return target_E - base_E > tau


def expert_kinds(languages: Mapping[str, ArrayLike], task: ArrayLike | None = None) -> np.ndarray:
    """Sort experts into language-specific, multilingual, task and shared ones.

    Args:
        languages: for each non-pivot language, the mask of its specialised experts, (..., E).
        task: mask of the task experts, (..., E).
    Returns:
        (..., E) indexes into `KINDS`: specialised for exactly one language; for two or more; for the task
        only; for the task and at least one language. The paper's "multilingual-specialised" (any non-pivot
        language) is everything here that is neither "none" nor "task". The split is ours.
    Raises:
        ValueError: no language, or masks of different shapes.
    """
    masks = [np.asarray(mask, bool) for mask in languages.values()]
    if not masks:
        raise ValueError("expert_kinds needs at least one language")
    task_E = np.zeros(masks[0].shape, bool) if task is None else np.asarray(task, bool)
    if any(mask.shape != task_E.shape for mask in masks):
        raise ValueError(f"masks differ in shape: {sorted({mask.shape for mask in [*masks, task_E]})}")
    languages_E = np.sum(masks, 0)
    kinds_E = np.minimum(languages_E, 2)
    kinds_E[task_E] = np.where(languages_E[task_E] > 0, KINDS.index("shared"), KINDS.index("task"))
    return kinds_E


def _frequencies(freq: ArrayLike, name: str) -> np.ndarray:
    array = as_real(freq, name).astype(np.float64, copy=False)
    if ((array < 0) | (array > 1 + 1e-6)).any():
        raise ValueError(f"{name} must lie in [0, 1]: it is a share of tokens")
    return array
