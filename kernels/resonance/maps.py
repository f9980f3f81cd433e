"""What one prompt's routing looks like as a map, and the plain difference of two shares of tokens."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, divide
from ..statistics.bootstrap import Interval, resample
from ..statistics.percentiles import percentile_bounds

Measure = Literal["rate", "weight_rate", "count", "weight"]


def prompt_maps(
    counts: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    measure: Measure = "rate",
) -> np.ndarray:
    """One map a prompt from its rollups.

    Args:
        counts: tokens of the prompt that choose the expert, (P, L, E); for "count" and "rate".
        tokens: tokens of the prompt, (P,) or (P, L); for the rates.
        weights: summed gate weights, (P, L, E); for "weight" and "weight_rate".
        measure: "count" and "weight" as in the paper; "rate" (default) and "weight_rate" divide them by the
            number of tokens, since prompts of unequal length would otherwise dominate [ours].
    Returns:
        (P, L, E) float64; 0 for a prompt without tokens.
    Raises:
        ValueError: an unknown measure, what it needs is missing, shapes that do not fit, choices without
            tokens.
    """
    if measure not in ("rate", "weight_rate", "count", "weight"):
        raise ValueError(f"measure must be rate, weight_rate, count or weight, got {measure!r}")
    name, given = ("weights", weights) if measure.startswith("weight") else ("counts", counts)
    if given is None:
        raise ValueError(f"measure {measure!r} needs {name}")
    amounts_PLE = as_amounts(given, name)
    if measure in ("count", "weight"):
        return amounts_PLE
    if tokens is None:
        raise ValueError(f"measure {measure!r} needs tokens")
    tokens_P = as_amounts(tokens, "tokens")
    if tokens_P.shape != amounts_PLE.shape[: tokens_P.ndim]:
        raise ValueError(f"tokens have shape {tokens_P.shape}, {name} {amounts_PLE.shape}")
    tokens_P11 = tokens_P.reshape(tokens_P.shape + (1,) * (amounts_PLE.ndim - tokens_P.ndim))
    if ((tokens_P11 == 0) & (amounts_PLE > 0)).any():
        raise ValueError(f"{name} are above 0 for a prompt with 0 tokens")
    return divide(amounts_PLE, tokens_P11)


def risk_difference(
    selected_a: ArrayLike, tokens_a: ArrayLike, selected_b: ArrayLike, tokens_b: ArrayLike
) -> np.ndarray:
    """Share of a's tokens that choose an expert minus the share of b's.

    Args:
        selected_a, selected_b: tokens that choose the expert, any shapes that broadcast.
        tokens_a, tokens_b: tokens looked at.
    Returns:
        A1 / N1 - A2 / N2 in [-1, 1]; a share of 0 tokens is 0.
    Raises:
        ValueError: a negative or NaN number, more selected than there are.
    Source:
        SteerMoE, arXiv 2509.09660. Pooled over tokens, so long prompts weigh more, and no uncertainty:
        `risk_difference_interval` gives one.
    """
    return (_share(selected_a, tokens_a, "a") - _share(selected_b, tokens_b, "b"))[()]


def risk_difference_interval(
    selected_a: ArrayLike,
    tokens_a: ArrayLike,
    selected_b: ArrayLike,
    tokens_b: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """`risk_difference` pooled over prompts, with a bootstrap interval over prompts.

    Args:
        selected_a, selected_b: tokens of each prompt that choose the expert, (Pa, ...) and (Pb, ...).
        tokens_a, tokens_b: tokens of each prompt, (Pa,) and (Pb,).
        level, resamples, seed: as for `bootstrap_interval`.
    Returns:
        `Interval` of shape (...); prompts of the two groups are resampled independently. `units` is the
        number of prompts of the smaller group; ends are NaN where it is below 2.
    Raises:
        ValueError: as `risk_difference`; shapes that do not fit.
    """
    (a_PM, a_P), (b_PM, b_P) = _flat(selected_a, tokens_a, "a"), _flat(selected_b, tokens_b, "b")
    shape = np.shape(selected_a)[1:]
    if np.shape(selected_b)[1:] != shape:
        raise ValueError(f"selected_a is for experts {shape}, selected_b for {np.shape(selected_b)[1:]}")
    point = risk_difference(a_PM.sum(0), a_P.sum(), b_PM.sum(0), b_P.sum())
    shares_a = _resampled_shares(a_PM, a_P, resamples, seed)
    shares_b = _resampled_shares(b_PM, b_P, resamples, seed + 1)
    units_M = np.full(a_PM.shape[1], min(len(a_P), len(b_P)))
    low, high = percentile_bounds(shares_a - shares_b, level, units_M)
    return Interval(*(array.reshape(shape)[()] for array in (point, low, high, units_M)), level=level)


def _resampled_shares(chosen_PM: np.ndarray, tokens_P: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    draws = resample(len(tokens_P), resamples, seed)
    return np.concatenate([divide(counts @ chosen_PM, (counts @ tokens_P)[:, None]) for counts in draws])


def _share(selected: ArrayLike, tokens: ArrayLike, side: str) -> np.ndarray:
    chosen, all_tokens = as_amounts(selected, f"selected_{side}"), as_amounts(tokens, f"tokens_{side}")
    if (chosen > all_tokens).any():
        raise ValueError(f"selected_{side} is larger than tokens_{side}")
    return divide(chosen, all_tokens)


def _flat(selected: ArrayLike, tokens: ArrayLike, side: str) -> tuple[np.ndarray, np.ndarray]:
    chosen, tokens_P = as_amounts(selected, f"selected_{side}"), as_amounts(tokens, f"tokens_{side}")
    if tokens_P.ndim != 1 or chosen.ndim == 0 or len(chosen) != len(tokens_P) or len(tokens_P) == 0:
        raise ValueError(
            f"selected_{side} must be (P, ...) and tokens_{side} (P,), got {chosen.shape}, {tokens_P.shape}"
        )
    flat_PM = chosen.reshape(len(chosen), -1)
    if (flat_PM > tokens_P[:, None]).any():
        raise ValueError(f"selected_{side} is larger than tokens_{side}")
    return flat_PM, tokens_P
