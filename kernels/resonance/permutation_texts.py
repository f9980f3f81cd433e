"""Exchanging whole texts between two groups: translations of one text are not independent, so they move together.

The score stays the difference of means over prompts. A relabelling gives every text, with all its prompts, to one of
the groups, as many texts to each as they have.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from .exchange import Exchange, is_missing, random_choice, resample


@dataclass(frozen=True)
class TextExchange(Exchange):
    """Prompts that may change sides only together with the others of their text."""

    text_Q: np.ndarray
    """Number of the text of each prompt in `rows`: the target's from 0, then the rest's."""
    targets: int
    """How many texts the target has."""

    @classmethod
    def of_texts(
        cls, is_target: np.ndarray, is_rest: np.ndarray, texts: Sequence[Hashable]
    ) -> "TextExchange":
        """Prompts without a text id are a text each.

        Raises:
            ValueError: a text with prompts in both groups.
        """
        rows_of = [np.flatnonzero(side).tolist() for side in (is_target, is_rest)]
        number: dict[tuple[bool, Hashable], int] = {}

        def key(row: int) -> tuple[bool, Hashable]:
            return (True, row) if is_missing(texts[row]) else (False, texts[row])

        both = {key(row) for row in rows_of[0]} & {key(row) for row in rows_of[1]}
        if both:
            raise ValueError(
                f"texts with prompts in both groups: {sorted(str(name) for _, name in both)[:5]}"
            )
        text_of = [[number.setdefault(key(row), len(number)) for row in rows] for rows in rows_of]
        target, rest = (np.array(rows) for rows in rows_of)
        text_Q = np.concatenate([np.array(texts) for texts in text_of])
        return cls(((target, rest),), len(texts), text_Q, len(set(text_of[0])))

    @property
    def rows(self) -> np.ndarray:
        """(Q,) the prompts of both groups."""
        return np.concatenate(self.blocks[0])

    @property
    def sizes(self) -> tuple[int, int]:
        """Texts of the target and of the rest."""
        return self.targets, int(self.text_Q.max()) + 1 - self.targets

    @property
    def distinct(self) -> int:
        return comb(sum(self.sizes), self.targets)

    @property
    def mirrored(self) -> bool:
        return self.sizes[0] == self.sizes[1]

    def every(self) -> Iterator[np.ndarray]:
        chosen = np.array(list(combinations(range(sum(self.sizes)), self.targets)))
        for start in range(0, len(chosen), self._rows()):
            yield self._given(chosen[start : start + self._rows()])

    def sample(self, rng: np.random.Generator, draws: int) -> Iterator[np.ndarray]:
        sides = [np.arange(size) for size in self.sizes]
        for start in range(0, draws, self._rows()):
            yield self._given(random_choice(rng, min(self._rows(), draws - start), *sides))

    def bootstrap(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """(draws, P) coefficients of resampled texts, within each group."""
        counts_RK = np.concatenate([resample(rng, draws, size) for size in self.sizes], axis=1)
        return self._means(counts_RK[:, self.text_Q], np.arange(len(self.text_Q)) < len(self.blocks[0][0]))

    def score_scale(self, maps_PM: np.ndarray) -> np.ndarray:
        """(M,) about the standard deviation of the score over all relabellings, exactly where texts have equally
        many prompts; 0 where no relabelling changes it."""
        # Prompts sorted by text, so that `reduceat` sums each text's maps: (K texts, M).
        # The score is a difference of two means of texts, so its variance is theirs over each group's size, added up.
        order = np.argsort(self.text_Q, kind="stable")
        starts = np.searchsorted(self.text_Q[order], np.arange(sum(self.sizes)))
        sums_KM = np.add.reduceat(maps_PM[self.rows[order]], starts, axis=0)
        means_KM = sums_KM / np.bincount(self.text_Q)[:, None]
        spread_M = means_KM.var(0, ddof=1) * sum(1 / size for size in self.sizes)
        return np.where(np.ptp(means_KM, axis=0) > 0, np.sqrt(spread_M), 0.0)

    def _given(self, chosen_RN: np.ndarray) -> np.ndarray:
        """(R, P) coefficients where these texts are the target's."""
        in_target_RK = np.zeros((len(chosen_RN), sum(self.sizes)), bool)
        np.put_along_axis(in_target_RK, chosen_RN, True, axis=1)
        in_target_RQ = in_target_RK[:, self.text_Q]
        return self._means(np.ones(in_target_RQ.shape), in_target_RQ)

    def _means(self, counts_RQ: np.ndarray, in_target: np.ndarray) -> np.ndarray:
        """(R, P): the weighted mean over the target's prompts minus that over the others."""
        c_RP = np.zeros((len(counts_RQ), self.prompts))
        mine_RQ, others_RQ = counts_RQ * in_target, counts_RQ * ~in_target
        c_RP[:, self.rows] = mine_RQ / mine_RQ.sum(1)[:, None] - others_RQ / others_RQ.sum(1)[:, None]
        return c_RP
