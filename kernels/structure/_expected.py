"""Mutual information that two unrelated labels seem to have: its mean over all permutations, exactly.

With a tokens of one label value and b of another out of N, the tokens of both are hypergeometric; the mean of
n/N log(n N / (a b)) over that distribution, summed over all pairs of values, is the expected information
(Vinh, Epps & Bailey 2010). Few different a and b are summed exactly; between them it is interpolated, and
where a b / N is large its series is used.
"""

from math import lgamma

import numpy as np

_SERIES_FROM = 80.0
"""Mean tokens of a pair from which the series is used: it is right to 1 part in 1,000 there."""
_EVERY_VALUE_TO = 64
_STEP = 1.08
_SMALL = np.array([lgamma(value + 1) for value in range(32)])
_WIDTH = 12.0
"""Standard deviations of the hypergeometric distribution that are summed on each side."""


def expected_information(row_totals: np.ndarray, column_totals: np.ndarray) -> float:
    """Mean plug-in information, in nats, of two labels over all permutations of one of them.

    Args:
        row_totals, column_totals: tokens of each value, whole numbers with one sum.
    """
    a, times = np.unique(row_totals[row_totals > 0], return_counts=True)
    b, columns = np.unique(column_totals[column_totals > 0], return_counts=True)
    if len(a) == 0:
        return 0.0
    grid_a, grid_b = _grid(a), _grid(b)
    value_AB = _of_pairs(grid_a, grid_b, int(column_totals.sum()))
    return float(_on_grid(a, times, grid_a) @ value_AB @ _on_grid(b, columns, grid_b))


def _on_grid(values: np.ndarray, times: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """How much each point of a grid counts, where values between two points are interpolated in their logarithms."""
    at = np.clip(np.searchsorted(grid, values, side="right") - 1, 0, max(len(grid) - 2, 0))
    if len(grid) == 1:
        return np.array([float(times.sum())])
    part = np.log(values / grid[at]) / np.log(grid[at + 1] / grid[at])
    below = np.bincount(at, times * (1 - part), len(grid))
    return below + np.bincount(at + 1, times * part, len(grid))


def _grid(a: np.ndarray) -> np.ndarray:
    """Values of a to sum exactly: all small ones, then ever fewer; their ends are those of a."""
    if len(a) <= 2 * _EVERY_VALUE_TO:
        return a
    steps = _EVERY_VALUE_TO * _STEP ** np.arange(400.0)
    spaced = np.r_[a[a <= _EVERY_VALUE_TO], steps[steps < a[-1]].astype(np.int64), a[-1]]
    return np.unique(spaced[spaced >= a[0]])


def _of_pairs(a_A: np.ndarray, b_B: np.ndarray, total: int) -> np.ndarray:
    """(A, B) contribution of a pair of values with a and b tokens."""
    a, b = (x.astype(np.float64) for x in np.broadcast_arrays(a_A[:, None], b_B[None, :]))
    mean = a * b / total
    value = np.zeros(a.shape)
    if total > 1:
        spread = (1 - a / total) * (1 - b / total) * total / (total - 1)
        value = spread / (2 * total) * (1 + spread / (6 * mean) + (spread / mean) ** 2 / 6)
    few = mean < _SERIES_FROM
    value[few] = _summed(a[few], b[few], float(total))
    return value


def _summed(a: np.ndarray, b: np.ndarray, total: float) -> np.ndarray:
    mean = a * b / total
    deviation = np.sqrt(mean * (1 - a / total) * (1 - b / total))
    n = np.maximum(np.floor(mean - _WIDTH * deviation), np.maximum(a + b - total, 0))
    last = np.minimum(np.ceil(mean + _WIDTH * deviation) + 12, np.minimum(a, b))
    probability = np.exp(_log_hypergeometric(n, a, b, total))
    value = np.zeros(len(a))
    while (n <= last).any():
        term = n / total * np.log(np.maximum(n, 1) / mean)
        value += np.where(n <= last, probability * term, 0.0)
        probability = probability * (a - n) * (b - n) / ((n + 1) * np.maximum(total - a - b + n + 1, 1))
        n = n + 1
    return value


def _log_hypergeometric(n: np.ndarray, a: np.ndarray, b: np.ndarray, total: float) -> np.ndarray:
    above = _log_factorial(a) + _log_factorial(b) + _log_factorial(total - a) + _log_factorial(total - b)
    below = [_log_factorial(x) for x in (n, a - n, b - n, total - a - b + n)]
    return above - sum(below) - _log_factorial(np.array([total]))


def _log_factorial(x: np.ndarray) -> np.ndarray:
    """Of whole numbers as floats: a table, and from its end on Stirling's series, right to 14 digits there."""
    large = np.maximum(x, len(_SMALL))
    series = 1 / (12 * large) - 1 / (360 * large**3) + 1 / (1260 * large**5)
    stirling = large * np.log(large) - large + 0.5 * np.log(2 * np.pi * large) + series
    return np.where(x < len(_SMALL), _SMALL[np.minimum(x, len(_SMALL) - 1).astype(np.int64)], stirling)
