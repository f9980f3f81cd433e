"""Mutual information that two unrelated labels seem to have: its mean over all permutations, exactly.

With a tokens of one label value and b of another out of N, the tokens of both are hypergeometric; the mean of
n/N log(n N / (a b)) over that distribution, summed over all pairs of values, is the expected information
(Vinh, Epps & Bailey 2010). Few different a and b are summed exactly; between them it is interpolated, and
where a b / N is large its series is used.
"""

from collections.abc import Sequence
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
    return expected_informations([(row_totals, column_totals)])[0]


def expected_informations(totals: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """`expected_information` of several tables whose sums run side by side: a step of all costs little more than one
    of a single table."""
    tables = [_Table(*pair) for pair in totals]
    pieces = [table.few() for table in tables]
    value_N = _summed(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
    ends = np.cumsum([len(a) for a, _, _ in pieces])
    values = np.split(value_N, ends[:-1])
    return [table.information(value) for table, value in zip(tables, values, strict=True)]


class _Table:
    """The different totals of rows and of columns, and the pairs of them that stand for all (A, B)."""

    def __init__(self, row_totals: np.ndarray, column_totals: np.ndarray) -> None:
        self.a, self.times = np.unique(row_totals[row_totals > 0], return_counts=True)
        self.b, self.columns = np.unique(column_totals[column_totals > 0], return_counts=True)
        self.grid_a, self.grid_b = _grid(self.a), _grid(self.b)
        self.total = float(column_totals.sum())
        self.mean_AB = self.grid_a[:, None] * self.grid_b / max(self.total, 1.0)

    def few(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a, b and N of the pairs with too few tokens for the series."""
        there = self.mean_AB < _SERIES_FROM
        whole = (self.grid_a[:, None], self.grid_b[None], self.total)
        a, b, total = (np.broadcast_to(np.float64(part), there.shape)[there] for part in whole)
        return a, b, total

    def information(self, few_N: np.ndarray) -> float:
        """The sum over all pairs, with that of `few`."""
        if not len(self.a):
            return 0.0
        value_AB = self._series() if self.total > 1 else np.zeros(self.mean_AB.shape)
        value_AB[self.mean_AB < _SERIES_FROM] = few_N
        rows = _on_grid(self.a, self.times, self.grid_a)
        return float(rows @ value_AB @ _on_grid(self.b, self.columns, self.grid_b))

    def _series(self) -> np.ndarray:
        total, mean = self.total, self.mean_AB
        left_A, left_B = 1 - self.grid_a / total, 1 - self.grid_b / total
        spread = left_A[:, None] * left_B * total / (total - 1)
        return spread / (2 * total) * (1 + spread / (6 * mean) + (spread / mean) ** 2 / 6)


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


def _summed(a_N: np.ndarray, b_N: np.ndarray, total_N: np.ndarray) -> np.ndarray:
    """(N,) mean of n/N log(n N / (a b)) over the hypergeometric n of each pair."""
    mean = a_N * b_N / total_N
    deviation = np.sqrt(mean * (1 - a_N / total_N) * (1 - b_N / total_N))
    first = np.maximum(np.floor(mean - _WIDTH * deviation), np.maximum(a_N + b_N - total_N, 0))
    last = np.minimum(np.ceil(mean + _WIDTH * deviation) + 12, np.minimum(a_N, b_N))
    terms_N = (last - first).astype(np.int64) + 1
    # Longest sums first: those that still run are then always the first ones, and no step looks at the others.
    order = np.argsort(-terms_N, kind="stable")
    a, b, total, mean, n = (x[order] for x in (a_N, b_N, total_N, mean, first))
    probability = np.exp(_log_hypergeometric(n, a, b, total))
    value = np.zeros(len(a))
    running = np.searchsorted(-terms_N[order], -np.arange(1, terms_N.max(initial=0) + 1), side="right")
    for left in running.tolist():
        a, b, total, mean, n, probability = (x[:left] for x in (a, b, total, mean, n, probability))
        value[:left] += probability * (n / total * np.log(np.maximum(n, 1) / mean))
        probability *= (a - n) * (b - n) / ((n + 1) * np.maximum(total - a - b + n + 1, 1))
        n += 1
    back = np.empty(len(order))
    back[order] = value
    return back


def _log_hypergeometric(n: np.ndarray, a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    above = _log_factorial(a) + _log_factorial(b) + _log_factorial(total - a) + _log_factorial(total - b)
    below = [_log_factorial(x) for x in (n, a - n, b - n, total - a - b + n)]
    return above - sum(below) - _log_factorial(total)


def _log_factorial(x: np.ndarray) -> np.ndarray:
    """Of whole numbers as floats: a table, and from its end on Stirling's series, right to 14 digits there."""
    large = np.maximum(x, len(_SMALL))
    series = 1 / (12 * large) - 1 / (360 * large**3) + 1 / (1260 * large**5)
    stirling = large * np.log(large) - large + 0.5 * np.log(2 * np.pi * large) + series
    return np.where(x < len(_SMALL), _SMALL[np.minimum(x, len(_SMALL) - 1).astype(np.int64)], stirling)
