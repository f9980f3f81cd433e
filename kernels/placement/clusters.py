"""Experts of one layer in clusters of equal size and nearly equal load."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts
from .._milp import Rows, gap_of, solve
from .loads import greedy


class SolvedClusters(NamedTuple):
    """A cluster of each expert."""

    cluster: np.ndarray
    """(E,)."""
    deviation: float
    """Sum over clusters of |load − mean load|."""
    gap: float
    """Share of the deviation that a better choice could save at most; 0 is optimal, NaN where nothing was proven."""


def cluster_experts(load: ArrayLike, num_clusters: int, *, seconds: float = 10.0) -> np.ndarray:
    """(E,) cluster of each expert; see `solve_clusters`."""
    return solve_clusters(load, num_clusters, seconds=seconds).cluster


def solve_clusters(
    load: ArrayLike, num_clusters: int, *, seconds: float = 10.0, enough: float = 0.0
) -> SolvedClusters:
    """Clusters of E / C experts each, of loads as equal as can be: least sum of |T_c − mean|.

    Args:
        load: (E,).
        num_clusters: C.
        seconds: time limit of the solver; never worse than largest-first with exchanges.
        enough: the search ends at a deviation of this share of the whole load; the gap is then NaN, not proven.
    Returns:
        Clusters numbered by their first expert. (40,30,20,10), 2 → {0,3}, {1,2}, deviation 0.
    Raises:
        ValueError: experts do not divide over the clusters.
    Source:
        MoETuner, arXiv 2502.06643. The program as printed lacks the equal sizes that its text asks for.
    """
    values = as_amounts(load, "load")
    start = _exchanged(values, greedy(values, num_clusters), num_clusters)
    best = _deviation(values, start, num_clusters)
    scale = values.mean() or 1.0
    if num_clusters in (1, len(values)) or best <= 1e-12 * scale:
        return SolvedClusters(_by_first(start), best, 0.0)
    if best <= enough * values.sum():
        return SolvedClusters(_by_first(start), best, float("nan"))
    found, bound = _program(values / scale, num_clusters, seconds)
    if found is not None:
        found = _exchanged(values, found, num_clusters)
        if (deviation := _deviation(values, found, num_clusters)) < best:
            start, best = found, deviation
    return SolvedClusters(_by_first(start), best, gap_of(best, bound * scale))


def _deviation(load_E: np.ndarray, cluster_E: np.ndarray, clusters: int) -> float:
    sums = np.bincount(cluster_E, load_E, clusters)
    return float(np.abs(sums - load_E.sum() / clusters).sum())


def _program(load_E: np.ndarray, clusters: int, seconds: float) -> tuple[np.ndarray | None, float]:
    experts = len(load_E)
    at_EC = np.arange(experts * clusters).reshape(experts, clusters)
    away_C = experts * clusters + np.arange(clusters)
    rows = Rows(experts * clusters + clusters)
    for row in at_EC:
        rows.add(row, 1, 1, 1)
    mean = load_E.sum() / clusters
    for cluster, away in zip(at_EC.T, away_C, strict=True):
        rows.add(cluster, 1, experts // clusters, experts // clusters)
        rows.add(np.r_[cluster, away], np.r_[load_E, -1], -np.inf, mean)
        rows.add(np.r_[cluster, away], np.r_[load_E, 1], mean, np.inf)
    # Clusters are alike: expert e lies in one of the first e + 1, so that no solution is looked at twice.
    for expert in range(min(experts, clusters) - 1):
        rows.add(at_EC[expert, expert + 1 :], 1, 0, 0)
    cost = np.zeros(experts * clusters + clusters)
    cost[away_C] = 1
    solution = solve(cost, rows, np.arange(len(cost)) < experts * clusters, seconds)
    found = None if solution.x is None else solution.x[: experts * clusters].reshape(at_EC.shape).argmax(1)
    return found, solution.bound


def _exchanged(load_E: np.ndarray, cluster_E: np.ndarray, clusters: int) -> np.ndarray:
    """Pairs of experts change places as long as that lowers the deviation."""
    cluster_E = cluster_E.copy()
    mean = load_E.sum() / clusters
    for _ in range(4 * len(load_E)):
        over_C = np.bincount(cluster_E, load_E, clusters) - mean
        over_E = over_C[cluster_E]
        shift = load_E[None] - load_E[:, None]
        after = np.abs(over_E[:, None] + shift) + np.abs(over_E[None] - shift)
        gain = np.abs(over_E)[:, None] + np.abs(over_E)[None] - after
        gain[cluster_E[:, None] == cluster_E] = 0
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[a, b] <= 1e-12 * max(mean, 1e-300):
            break
        cluster_E[a], cluster_E[b] = cluster_E[b], cluster_E[a]
    return cluster_E


def _by_first(cluster_E: np.ndarray) -> np.ndarray:
    first = np.unique(cluster_E, return_index=True)[1]
    return np.argsort(np.argsort(first))[cluster_E]
