"""How long consecutive tokens keep an expert.

1. A use is a token that chose an expert. It survives d tokens if each of the next d tokens of its sequence chose
   the expert too.
2. survival S(d) = uses that survive d tokens / uses that have d tokens after them in their sequence (others are
   censored: left out of both).
3. half-life = the d at which S falls to one half, linear between whole tokens.

By chance: tokens that choose independently with the layer's own shares s_e keep an expert for d tokens with
probability s_e^d, so S(d) = Σ s_e · s_e^d / Σ s_e. A skewed load alone makes experts stay; beside this chance, what
is left is what neighbouring tokens have in common.

Source: our choice. Shape legend: T tokens, K slots a token, E experts, D = horizon + 1, R runs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_ids, as_real, check_range, check_size, divide


class Survival(NamedTuple):
    """Counts by distance d = 0 .. horizon."""

    survived: np.ndarray
    """(D,) int64: uses that each of the next d tokens repeats."""
    at_risk: np.ndarray
    """(D,) int64: uses with at least d tokens after them in their sequence."""


def expert_survival(ids: ArrayLike, num_experts: int, lengths: ArrayLike, horizon: int = 32) -> Survival:
    """Count for how many tokens uses of experts last.

    Args:
        ids: (T, K) experts of each token, -1 an empty slot, sequences one after another.
        num_experts: E. A token names an expert at most once.
        lengths: (S,) tokens of each sequence; they sum to T.
        horizon: the largest d.
    Raises:
        ValueError: an id outside 0 .. E-1, or lengths that do not sum to T.
    """
    ids_TK = as_ids(ids)
    check_range(ids_TK, num_experts, "ids")
    check_size(horizon, "horizon")
    lengths_S = np.asarray(lengths, np.int64)
    if lengths_S.sum() != len(ids_TK) or (lengths_S < 0).any():
        raise ValueError(f"lengths sum to {lengths_S.sum()}, but there are {len(ids_TK)} tokens")
    ends_T = np.repeat(np.cumsum(lengths_S), lengths_S)
    token, slot = np.nonzero(ids_TK >= 0)
    # Sorted by expert, then token, the uses of one run are neighbours with rising token numbers.
    order = np.lexsort((token, ids_TK[token, slot]))
    expert, token = ids_TK[token, slot][order], token[order]
    starts = (
        np.flatnonzero(
            np.r_[True, (np.diff(expert) != 0) | (np.diff(token) != 1) | (np.diff(ends_T[token]) != 0)]
        )
        if len(token)
        else np.zeros(0, np.int64)
    )
    run_R = np.diff(np.r_[starts, len(token)])
    left_U = ends_T[token] - 1 - token
    return Survival(_surviving(run_R, horizon), _reaching(left_U, horizon))


def _reaching(values: np.ndarray, horizon: int) -> np.ndarray:
    """(D,) how many values are at least d."""
    tally = np.bincount(np.minimum(values, horizon), minlength=horizon + 1)
    return np.cumsum(tally[::-1])[::-1].astype(np.int64)


def _surviving(run_R: np.ndarray, horizon: int) -> np.ndarray:
    """(D,) a run of n uses holds n - d that survive d tokens, where that is positive."""
    longest = int(run_R.max(initial=0))
    runs_of = np.bincount(run_R, minlength=longest + 1)
    d = np.arange(horizon + 1)[:, None]
    return np.maximum(np.arange(longest + 1)[None] - d, 0) @ runs_of


def half_life(survived: ArrayLike, at_risk: ArrayLike) -> float:
    """The distance at which survival falls to one half, in tokens.

    Args:
        survived, at_risk: (D,) as in `Survival`; sums over sequences are fine.
    Returns:
        Tokens, linear between whole numbers; infinite where survival stays above one half up to the horizon, NaN
        where there is no use.
    """
    return _crossing(divide(as_real(survived, "survived"), as_real(at_risk, "at_risk")), np.asarray(at_risk))


def half_life_chance(shares: ArrayLike, horizon: int = 32) -> tuple[float, float]:
    """Half-life, and share kept by the next token, of independent tokens with these shares.

    Args:
        shares: (E,) share of the tokens that choose each expert, in [0, 1].
    Returns:
        (half-life as in `half_life`, S(1)).
    """
    shares_E = as_real(shares, "shares")
    if (shares_E < 0).any() or (shares_E > 1 + 1e-9).any():
        raise ValueError("a share lies between 0 and 1")
    survival_D = divide((shares_E[None] ** np.arange(1, horizon + 2)[:, None]).sum(1), shares_E.sum())
    return _crossing(survival_D, np.full(horizon + 1, shares_E.sum())), float(survival_D[1])


def _crossing(survival_D: np.ndarray, at_risk_D: np.ndarray) -> float:
    if at_risk_D[0] == 0:
        return float("nan")
    # Distances that no sequence is long enough for say nothing.
    survival_D = survival_D[: int(np.count_nonzero(at_risk_D > 0))]
    below = np.flatnonzero(survival_D <= 0.5)
    if not len(below):
        return float("inf")
    d = int(below[0])
    upper, lower = survival_D[d - 1], survival_D[d]
    return float(d - 1 + (upper - 0.5) / (upper - lower))
