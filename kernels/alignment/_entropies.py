"""Sums that entropies and Jensen-Shannon divergences are made of, exact to rounding also where they are small.

All functions take float64 distributions along the last axis that sum to 1.
"""

from collections.abc import Callable

import numpy as np

from .._arrays import divide
from ._log_sums import TINY

_CANCELLED = 1e-5
"""Sums below this have lost more than five digits."""

_SMALL = 0.02
"""Below this |x| the closed forms lose digits to cancellation and a short series is exact to rounding."""


def sum_x_log_x(x: np.ndarray) -> np.ndarray:
    """Minus the entropy."""
    return np.vecdot(x, np.log(np.maximum(x, TINY)))


def js_and_rest(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """JSD(p, q) and log E - H((p + q) / 2) of each row; never negative, and small ones exact to rounding."""
    mean, middle = 0.5 * (sum_x_log_x(p) + sum_x_log_x(q)), sum_x_log_x(0.5 * (p + q))
    return js_and_rest_of(lambda chosen: (p[chosen], q[chosen]), p.shape[-1], mean, middle)


def js_and_rest_of(
    rows: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    experts: int,
    mean_log: np.ndarray,
    middle_log: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The same from ready sums.

    Args:
        rows: gives p and q, (chosen, E), for a mask (...): asked only where the sums have cancelled.
        mean_log: (...) mean of the sums of p log p and q log q.
        middle_log: (...) sum of m log m, m = (p + q) / 2.
    """
    js, rest = mean_log - middle_log, np.log(experts) + middle_log
    if (close := js < _CANCELLED).any():
        p, q = rows(close)
        js[close] = 0.5 * np.sum(0.5 * (p + q) * _two_sided(divide(p - q, p + q)), -1)
    if (even := rest < _CANCELLED).any():
        p, q = rows(even)
        rest[even] = _one_sided(0.5 * (p + q) * experts - 1.0).mean(-1)
    return js, rest


def normalised_divergence(js: np.ndarray, rest: np.ndarray, nothing: float) -> np.ndarray:
    """JSD / (JSD + rest); 0 where both are no more than `nothing`."""
    return np.where(js + rest > nothing, divide(js, js + rest), 0.0)


def _two_sided(d: np.ndarray) -> np.ndarray:
    """(1 + d) log(1 + d) + (1 - d) log(1 - d) for |d| <= 1, to rounding."""
    plus, minus = 1.0 + d, 1.0 - d
    closed = plus * np.log(np.maximum(plus, TINY)) + minus * np.log(np.maximum(minus, TINY))
    s = d * d
    series = s * (1 + s * (1 / 6 + s * (1 / 15 + s / 28)))
    return np.where(s < _SMALL**2, series, closed)


def _one_sided(x: np.ndarray) -> np.ndarray:
    """(1 + x) log(1 + x) - x for x >= -1, to rounding; never negative."""
    closed = (1.0 + x) * np.log(np.maximum(1.0 + x, TINY)) - x
    series = (
        x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x * (1 / 20 - x * (1 / 30 - x * (1 / 42 - x / 56))))))
    )
    return np.where(np.abs(x) < _SMALL, series, np.maximum(closed, 0.0))
