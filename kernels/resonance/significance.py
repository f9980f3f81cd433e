"""Many tests at once: false discovery rate, and the chance overlap of two findings."""

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_real, to_numpy


def benjamini_hochberg(p_values: ArrayLike) -> np.ndarray:
    """q-values: the false discovery rate at which each test would just be called a finding.

    Args:
        p_values: any shape; all of them are one family.
    Returns:
        The same shape, in (0, 1]: the minimum over j >= i of p_(j) n / j, with p sorted ascending.
    Raises:
        ValueError: a p-value outside [0, 1] or NaN.
    Source:
        Benjamini & Hochberg 1995. Holds for independent and for positively dependent tests.
    """
    p = as_real(p_values, "p_values").astype(np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p_values must lie in [0, 1]")
    order = np.argsort(p, axis=None, kind="stable")
    scaled = p.reshape(-1)[order] * (p.size / np.arange(1, p.size + 1))
    q = np.empty(p.size)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q.reshape(p.shape)


@dataclass(frozen=True)
class Overlap:
    """How far two sets of experts agree, and how often as much agreement arises by chance."""

    jaccard: float
    """Shared over all experts of the two sets; 0 for two empty sets."""
    shared: int
    expected: float
    """Mean number shared under the permutation."""
    p_value: float
    """One-sided: the share of all permutations that share at least as many. Exact, nothing is drawn."""


def overlap(top_a: ArrayLike, top_b: ArrayLike, within_layers: bool = True) -> Overlap:
    """Do the experts of two contrasts coincide more than chance?

    Args:
        top_a, top_b: masks of chosen experts, (L, E) bool (see `ResonanceResult.top_mask`).
        within_layers: permute experts within each layer, keeping how many each layer has (top experts
            cluster in a few layers, which alone makes sets overlap); False: over all L x E at once.
    Returns:
        `Overlap`, its p-value over all permutations: the shared number is a sum of one hypergeometric
        variable a layer, whose distributions are convolved.
    Raises:
        ValueError: masks that are not boolean or differ in shape.
    Trap:
        Contrasts that share prompts (A against C, B against C) overlap for that reason; the permutation
        cannot know. Use disjoint prompts for the two.
    """
    a_LE, b_LE = to_numpy(top_a), to_numpy(top_b)
    if a_LE.dtype != bool or b_LE.dtype != bool or a_LE.shape != b_LE.shape or a_LE.ndim == 0:
        raise ValueError(
            f"masks must be boolean and of one shape: {a_LE.dtype} {a_LE.shape}, {b_LE.dtype} {b_LE.shape}"
        )
    layers = a_LE.shape[0] if within_layers and a_LE.ndim > 1 else 1
    a_LE, b_LE = a_LE.reshape(layers, -1), b_LE.reshape(layers, -1)
    shared, union = int(np.sum(a_LE & b_LE)), int(np.sum(a_LE | b_LE))
    chance = np.ones(1)
    for size_a, size_b in zip(a_LE.sum(1), b_LE.sum(1), strict=True):
        chance = np.convolve(chance, _hypergeometric(a_LE.shape[1], int(size_a), int(size_b)))
    expected = float(chance @ np.arange(len(chance)))
    p_value = min(1.0, float(chance[shared:].sum()))
    return Overlap(shared / union if union else 0.0, shared, expected, p_value)


def _hypergeometric(population: int, size_a: int, size_b: int) -> np.ndarray:
    """P(two random subsets of these sizes share s), s = 0 .. min(size_a, size_b); exact integers divided
    once."""
    ways = comb(population, size_b)
    return np.array(
        [
            comb(size_a, s) * comb(population - size_a, size_b - s) / ways
            for s in range(min(size_a, size_b) + 1)
        ]
    )
