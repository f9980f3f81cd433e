"""Binomial probabilities of many shares at once."""

import numpy as np


def binomial_probabilities(n: int, shares_E: np.ndarray) -> np.ndarray:
    """P(an expert is chosen c of n times) for c = 0 .. n, (n + 1, E).

    Args:
        n: independent tokens.
        shares_E: probability that a token chooses each expert, (E,), each in [0, 1].
    """
    within = np.clip(shares_E, 1e-300, 1 - 1e-16)
    c = np.arange(n)[:, None]
    steps = np.log((n - c) / (c + 1)) + np.log(within) - np.log1p(-within)
    log_first = n * np.log1p(-within)[None]
    found = np.exp(log_first + np.vstack([np.zeros((1, len(within))), np.cumsum(steps, axis=0)]))
    found[:, shares_E <= 0] = 0.0
    found[0, shares_E <= 0] = 1.0
    found[:, shares_E >= 1] = 0.0
    found[n, shares_E >= 1] = 1.0
    return found
