"""Two-sided permutation p-values for many scores at once, and for the largest of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .exchange import Exchange

_COLUMNS = 1024
_ROWS = 240
"""Fewer than 256 relabellings at a time, so that a byte can count them."""

_ROUNDING = 1e-9
"""Scores in units of their spread that differ by less are ties: far above the rounding of a dot product."""

FEW_EXCEEDANCES = 10
"""Refinement goes on for cells that fewer relabellings matched."""

_MOST_DRAWS = 500_000


@dataclass(frozen=True)
class PermutationTest:
    """p-values of M scores."""

    p_value: np.ndarray
    p_family: np.ndarray
    """Single-step max-T (Westfall & Young 1993): scores are compared in units of their own spread."""
    smallest_p: float
    exact: bool
    relabellings: int
    most_relabellings: int
    """Larger than `relabellings` where a refinement went on for some experts."""


def permutation_test(
    maps_PM: np.ndarray,
    precision_M: np.ndarray,
    exchange: Exchange,
    permutations: int,
    rng: np.random.Generator,
    refine: bool = False,
) -> PermutationTest:
    """How often a relabelling gives as large a |score| as the labels did, in a cell and in any cell.

    Args:
        maps_PM: prompts x cells, float64.
        precision_M: how exactly a cell's values are known (rounding of the type they came in): scores closer
            than that are ties, and ties count against a finding.
        exchange: who may change sides with whom.
        permutations: random relabellings; where there are no more distinct ones than that, all are
            enumerated.
        refine: go on drawing for the cells that fewer than 10 relabellings matched, until a single expert
            could reach a Benjamini-Hochberg q of 0.05 (at most 500,000). The p-values stay valid: a cell
            stops only when its own count is high (Besag & Clifford 1991).
    """
    scale_M = exchange.score_scale(maps_PM)
    # Scores become products of labels (R, P) and standardised maps (P, M): one matrix product for many relabellings.
    # Cells that are constant up to rounding get z = 0 and p = 1.
    moves = scale_M > precision_M
    safe_M = np.where(moves, scale_M, 1.0)
    used = exchange.observed() != 0
    z_PM = np.where(moves, (maps_PM - maps_PM[used].mean(0)) / safe_M, 0.0)
    bar_M = np.abs(exchange.observed() @ z_PM) - _ROUNDING - np.where(moves, precision_M / safe_M, 0.0)
    exact = exchange.distinct <= permutations
    labels = exchange.every() if exact else exchange.sample(rng, permutations)
    reached_M, largest_R = _compare(labels, z_PM, bar_M)
    extra, total = (0, exchange.distinct) if exact else (1, permutations + 1)
    # The corrected p of a cell: relabellings whose largest score in any cell reaches its own.
    below = np.searchsorted(np.sort(largest_R), bar_M, side="left")
    p_family = (len(largest_R) - below + extra) / total
    p_value, most = (reached_M + extra) / total, len(largest_R)
    if refine and not exact:
        most = _refine(p_value, reached_M, z_PM, bar_M, exchange, permutations, rng)
    return PermutationTest(p_value, p_family, _floor(exchange, exact, most), exact, len(largest_R), most)


def _compare(
    labels: Iterator[np.ndarray], z_PM: np.ndarray, bar_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each cell how many relabellings reach its bar; for each relabelling its largest |score|."""
    reached_M = np.zeros(z_PM.shape[1], np.int64)
    largest = []
    for c_RP in labels:
        for start in range(0, len(c_RP), _ROWS):
            rows_RP = c_RP[start : start + _ROWS]
            largest_R = np.zeros(len(rows_RP))
            # Tiles of _ROWS × _COLUMNS stay in the cache; the whole (R, M) would be gigabytes.
            for first in range(0, z_PM.shape[1], _COLUMNS):
                cells = slice(first, first + _COLUMNS)
                scores_RM = rows_RP @ z_PM[:, cells]
                np.abs(scores_RM, out=scores_RM)
                np.maximum(largest_R, scores_RM.max(1), out=largest_R)
                # Summed as bytes, which is faster and holds: _ROWS is below 256.
                reached = (scores_RM >= bar_M[cells]).view(np.uint8)
                reached_M[cells] += reached.sum(0, dtype=np.uint8)
            largest.append(largest_R)
    return reached_M, np.concatenate(largest)


def _refine(
    p_value: np.ndarray,
    reached_M: np.ndarray,
    z_PM: np.ndarray,
    bar_M: np.ndarray,
    exchange: Exchange,
    drawn: int,
    rng: np.random.Generator,
) -> int:
    """Continue the same sample for the cells that need it; p_value is updated in place."""
    enough = min(20 * p_value.size, _MOST_DRAWS)
    while drawn < enough and (few := np.flatnonzero(reached_M < FEW_EXCEEDANCES)).size:
        more = min(9 * drawn, enough - drawn)
        reached, _ = _compare(exchange.sample(rng, more), z_PM[:, few], bar_M[few])
        drawn += more
        reached_M[few] += reached
        p_value[few] = (reached_M[few] + 1) / (drawn + 1)
    return drawn


def _floor(exchange: Exchange, exact: bool, drawn: int) -> float:
    """The smallest p that could have come out; with equal group sizes the mirrored labels always tie."""
    if not exact:
        return 1 / (drawn + 1)
    return (2 if exchange.mirrored else 1) / exchange.distinct
