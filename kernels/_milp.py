"""Integer programs, solved by HiGHS (through SciPy) within a time limit.

A solution is told with the gap to the solver's proven bound: 0 is optimal; NaN where nothing was proven.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint


class Solution(NamedTuple):
    """What the solver found within its time."""

    x: np.ndarray | None
    """(N,) the best solution; None where it found none."""
    bound: float
    """No solution is below this; -inf where nothing was proven."""


class Rows:
    """Constraints low <= A x <= high, collected row by row."""

    def __init__(self, variables: int):
        self._variables = variables
        self._rows: list[np.ndarray] = []
        self._columns: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, columns: np.ndarray, values: np.ndarray | float, low: float, high: float) -> None:
        """One row: the sum of values times variables lies in low .. high."""
        columns = np.asarray(columns).ravel()
        self._rows.append(np.full(len(columns), len(self._low)))
        self._columns.append(columns)
        self._values.append(np.broadcast_to(np.asarray(values, np.float64), columns.shape))
        self._low.append(low)
        self._high.append(high)

    def constraint(self) -> LinearConstraint:
        """All rows, as SciPy takes them."""
        from scipy import sparse
        from scipy.optimize import LinearConstraint

        at = (np.concatenate(self._rows), np.concatenate(self._columns))
        shape = (len(self._low), self._variables)
        matrix = sparse.csr_array((np.concatenate(self._values), at), shape=shape)
        return LinearConstraint(matrix, np.array(self._low), np.array(self._high))  # pyright: ignore[reportArgumentType]


def solve(
    cost: np.ndarray, rows: Rows, binary: np.ndarray, seconds: float, highest: float = np.inf
) -> Solution:
    """Minimise cost · x.

    Args:
        cost: (N,).
        binary: (N,) bool: variables that are 0 or 1; the others are numbers of 0 .. `highest`.
        seconds: time limit.
    Raises:
        ValueError: the constraints contradict each other.
    """
    # SciPy takes a second to load, which no other kernel should cost.
    from scipy.optimize import Bounds, milp

    found = milp(
        cost,
        integrality=binary.astype(int),
        bounds=Bounds(np.zeros(len(cost)), np.where(binary, 1.0, highest)),  # pyright: ignore[reportArgumentType]
        constraints=rows.constraint(),
        options={"time_limit": seconds, "mip_rel_gap": 1e-9},
    )
    if found.status == 2:
        raise ValueError("no solution satisfies all constraints")
    bound = getattr(found, "mip_dual_bound", None)
    return Solution(found.x, -math.inf if bound is None else float(bound))


def gap_of(value: float, bound: float) -> float:
    """(value − bound) / value: what a better choice could save at most. 0 is proven best; NaN without a bound."""
    if not math.isfinite(bound):
        return math.nan
    if value - bound <= 1e-9 * max(1.0, abs(value)):
        return 0.0
    return (value - bound) / abs(value)
