"""How alike the tokens of one sequence are routed, from its expert counts alone."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, divide


def token_overlap(counts: ArrayLike, tokens: ArrayLike) -> np.ndarray:
    """Share of a token's experts that another token of the same sequence uses too, mean over token pairs.

    An expert with c uses is shared by c (c - 1) of the T (T - 1) ordered pairs, and a token uses
    sum(counts) / T experts on average, so no event is needed.

    Args:
        counts: tokens of the sequence that choose each expert, (..., E).
        tokens: tokens of the sequence, (...).
    Returns:
        (...) in [0, 1]: 1 where all tokens use the same experts; NaN below 2 tokens, where there is no pair.
        Under independent uniform routing its expectation is k / E: print that beside it.
    Raises:
        ValueError: shapes that do not fit, more choices of an expert than tokens.
    Source:
        Ours: the multilingual study reports the consistency of routing without a formula that we could read.
    """
    counts_SE, tokens_S = as_amounts(counts, "counts"), as_amounts(tokens, "tokens")
    if counts_SE.ndim == 0 or counts_SE.shape[:-1] != tokens_S.shape:
        raise ValueError(f"counts must be (..., E) and tokens (...), got {counts_SE.shape}, {tokens_S.shape}")
    if (counts_SE.max(-1, initial=0) > tokens_S).any():
        raise ValueError("an expert was chosen by more tokens than its sequence has")
    uses_S = counts_SE.sum(-1)
    shared_S = np.vecdot(counts_SE, counts_SE) - uses_S
    overlap = divide(shared_S, uses_S * (tokens_S - 1))
    return np.where(tokens_S < 2, np.nan, overlap)[()]
