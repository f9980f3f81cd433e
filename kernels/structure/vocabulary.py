"""What each token of the vocabulary chooses, and what luck alone would make of few occurrences."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_ids, as_labels, check_range, check_size, divide, to_numpy
from ..statistics.binomial import binomial_probabilities

_CELLS = 1 << 28
"""Token ids × experts that a table may hold (2 GiB of float64)."""

_QUANTILE = 0.95


class VocabularyShares(NamedTuple):
    """Token ids that occur often enough, rising."""

    token_ids: np.ndarray
    """(V,)."""
    shares: np.ndarray
    """(V, E): share of a token id's occurrences that choose the expert; a row sums to k."""
    occurrences: np.ndarray
    """(V,)."""


class Luck(NamedTuple):
    """What the largest share is where the token does not matter."""

    mean: np.ndarray
    high: np.ndarray
    """95 % quantile: a share above it comes by luck in one of twenty such tokens."""


def vocabulary_shares(
    token_ids: ArrayLike, ids: ArrayLike, num_experts: int, least: int = 8
) -> VocabularyShares:
    """Which experts each token id chooses, for ids with at least `least` occurrences.

    Args:
        token_ids: (T,); a negative id is left out.
        ids: chosen experts, (T, k); -1 is an empty slot.
        num_experts: E.
        least: fewest occurrences.
    Raises:
        ValueError: an id out of range, float ids, lengths that differ, a table that would not fit in memory.
    Trap:
        Occurrences of one prompt are not independent; compare with `rare_token_baseline`, which takes them to be.
    """
    ids_TK = as_ids(ids)
    num_experts, least = check_size(num_experts, "num_experts"), check_size(least, "least")
    check_range(ids_TK, num_experts, "ids")
    token_T = as_labels(token_ids, "token_ids", len(ids_TK))
    found, number_T, occurrences = np.unique(token_T, return_inverse=True, return_counts=True)
    kept = (found >= 0) & (occurrences >= least)
    if int(kept.sum()) * num_experts > _CELLS:
        raise ValueError(
            f"{int(kept.sum()):,} token ids × {num_experts:,} experts are too many: raise `least`"
        )
    # Rare ids get no row (-1), so the table is (kept ids, E) instead of (all V ids, E).
    # One key (row, expert) for each filled slot, (S,): a single bincount fills the table.
    row_V = np.where(kept, np.cumsum(kept) - 1, -1)
    row_T = row_V[number_T]
    filled = (ids_TK >= 0) & (row_T >= 0)[:, None]
    keys = (row_T[:, None] * num_experts + ids_TK.astype(np.int64))[filled]
    counts = np.bincount(keys, minlength=int(kept.sum()) * num_experts).reshape(-1, num_experts)
    return VocabularyShares(found[kept], divide(counts, occurrences[kept, None]), occurrences[kept])


def rare_token_baseline(
    occurrences: ArrayLike, shares: ArrayLike, draws: int | None = None, seed: int = 0
) -> Luck:
    """The largest share of its occurrences that any expert gets of a token whose routing does not depend on it.

    Args:
        occurrences: n, a whole number or (V,) of them.
        shares: share of the layer's tokens that choose each expert, (E,), each in [0, 1]; they sum to k.
        draws, seed: of a simulation. Nothing is drawn: the distribution is known exactly.
    Returns:
        `Luck` of numbers, or of (V,). Expert e gets Binomial(n, share_e) occurrences, experts independently, so
        P(largest <= c) is the product of E binomial distribution functions.
    Raises:
        ValueError: shares outside [0, 1], none at all, or n below 1.
    Source:
        Ours. 2 occurrences, 4 even experts of share 1/4: mean 0.563705, 95 % quantile 1.
    Trap:
        The experts of one token exclude one another a little, which this leaves out; and occurrences in one prompt are
        more alike than chance, so beating it is necessary, not sufficient.
    """
    shares_E = as_amounts(shares, "shares")
    if shares_E.ndim != 1 or len(shares_E) == 0 or shares_E.max() > 1:
        raise ValueError(f"shares must be (E,) numbers from 0 to 1, got shape {shares_E.shape}")
    counts = to_numpy(occurrences)
    if counts.dtype.kind not in "iu" or (counts < 1).any():
        raise ValueError(f"occurrences must be whole numbers of at least 1, got {occurrences}")
    different, which = np.unique(counts, return_inverse=True)
    found = np.array([_largest_by_luck(int(n), shares_E) for n in different]).reshape(-1, 2)[which]
    return Luck(found[..., 0].reshape(counts.shape)[()], found[..., 1].reshape(counts.shape)[()])


def _largest_by_luck(n: int, shares_E: np.ndarray) -> tuple[float, float]:
    """Mean and 95 % quantile of the largest of the experts' binomial shares."""
    at_most = np.minimum(np.cumsum(binomial_probabilities(n, shares_E), axis=0), 1.0).prod(1)
    at_most[-1] = 1.0
    return float(1 - at_most[:-1].sum() / n), float(np.argmax(at_most >= _QUANTILE)) / n
