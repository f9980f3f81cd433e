"""What a contrast of two groups of prompts found, and the order in which it is listed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .._arrays import check_size

Ranking = Literal["absolute", "target", "rest"]


@dataclass(frozen=True)
class ResonanceResult:
    """What a contrast found. Arrays have the shape of one map, usually (L, E)."""

    score: np.ndarray
    """Mean of the target's maps - mean of the rest's."""
    p_value: np.ndarray
    """Two-sided permutation p, never 0."""
    q_value: np.ndarray
    """Benjamini-Hochberg over all cells of the map."""
    p_family: np.ndarray
    """Chance that any expert at all stands out as much: max-T, scores in units of their own spread."""
    effect: np.ndarray
    """Score over the pooled standard deviation of the two groups; 0 where that is 0."""
    stability: np.ndarray
    """Share of bootstraps of the prompts in which the expert is in the top N."""
    target_mean: np.ndarray
    """Mean of the target's maps; where paired, the mean over pairs of their means within the pair."""
    rest_mean: np.ndarray
    """The same of the rest's: score = target_mean - rest_mean."""
    n_target: int
    """Target prompts that took part."""
    n_rest: int
    n_pairs: int
    """Complete pairs; 0 for an unpaired test."""
    unpaired: tuple[int, ...]
    """Prompts (positions in `labels`) of the two groups left out because their pair is incomplete."""
    exact: bool
    """Whether all relabellings were enumerated."""
    relabellings: int
    """How many were looked at by every expert."""
    ranking: Ranking
    top_n: int
    smallest_p: float
    """The smallest p-value this test could have given."""
    method: str
    """What was done, in a sentence to print beside the ranking."""

    @property
    def smallest_lone_q(self) -> float:
        """The q-value a single expert could reach at best; above 0.05 only several together are found."""
        return min(1.0, self.smallest_p * self.score.size)

    def top(self, n: int | None = None) -> np.ndarray:
        """(n, axes of the map) int64: experts in rank order, e.g. rows of (layer, expert)."""
        n = min(self.top_n if n is None else check_size(n, "n"), self.score.size)
        order = np.argsort(-rank_key(self.score.reshape(-1), self.ranking), kind="stable")[:n]
        return np.stack(np.unravel_index(order, self.score.shape), axis=-1)

    def top_mask(self, n: int | None = None) -> np.ndarray:
        """Boolean map of `top(n)`."""
        mask = np.zeros(self.score.shape, bool)
        mask[tuple(self.top(n).T)] = True
        return mask


def rank_key(score: np.ndarray, ranking: Ranking) -> np.ndarray:
    """Larger is nearer the top."""
    return {"absolute": np.abs, "target": np.positive, "rest": np.negative}[ranking](score)
