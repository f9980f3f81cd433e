"""How unevenly an expert is used over domains."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, divide


def specialisation_spread(rates: ArrayLike, ddof: int = 1, floor: float = 1e-5) -> np.ndarray:
    """Coefficient of variation of each expert's rate over domains (languages, groups, ...).

    Args:
        rates: rate of each expert in each domain, (G, E), not negative: share of the domain's tokens that choose it.
        ddof: 1 for the sample standard deviation, 0 for the population's.
        floor: domains in which an expert's rate is at most this are left out for that expert.
    Returns:
        (E,) standard deviation / mean: 0 for an expert of equal rates. 0 where no domain is left, or with ddof 1 where
        only one is.
    Raises:
        ValueError: not two axes, a rate that is negative, NaN or infinite, ddof other than 0 and 1.
    Source:
        The released code of arXiv 2505.16056 (ddof 1 and that floor).
    Trap:
        The floor hides exclusive experts: one that a single domain uses has a spread of 0. Read it beside the rates.
    """
    rates_GE = as_amounts(rates, "rates")
    if rates_GE.ndim != 2:
        raise ValueError(f"rates must have shape (G, E), got {rates_GE.shape}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof!r}")
    counted = rates_GE > floor
    domains = counted.sum(0)
    mean = divide(np.sum(rates_GE, axis=0, where=counted), domains)
    squares = np.sum((rates_GE - mean) ** 2, axis=0, where=counted)
    deviation = np.sqrt(np.where(domains > ddof, divide(squares, np.maximum(domains - ddof, 1)), 0.0))
    return divide(deviation, mean)
