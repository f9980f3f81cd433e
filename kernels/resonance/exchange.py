"""Exchanging prompts between two groups: every relabelling, or a random sample of them, as a matrix.

The score is linear in the labels: score = c . maps, with c = 1/n over the target's prompts and -1/n over the
rest's. A relabelling is another vector c, so all permuted scores are one matrix product. Prompts are
exchanged within blocks: one block of all prompts for an unpaired contrast, one block a parallel text for a
paired one (in a block of one target and one rest prompt, an exchange is a sign-flip). The score is then the
mean over blocks.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod

import numpy as np

_CELLS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Exchange:
    """Which of P prompts may change sides with which."""

    blocks: tuple[tuple[np.ndarray, np.ndarray], ...]
    """For each block the rows of its target and of its rest prompts."""
    prompts: int
    """P: every row is in at most one block."""

    @classmethod
    def between(cls, target: np.ndarray, rest: np.ndarray, prompts: int) -> "Exchange":
        """Any target prompt with any rest prompt."""
        return cls(((target, rest),), prompts)

    @classmethod
    def within_pairs(
        cls, is_target: np.ndarray, is_rest: np.ndarray, pairs: Sequence[Hashable]
    ) -> "Exchange":
        """Only prompts with one pair id; ids that lack one of the sides form no block."""
        members: dict[Hashable, tuple[list[int], list[int]]] = {}
        for row in np.flatnonzero(is_target | is_rest).tolist():
            if not is_missing(pairs[row]):
                members.setdefault(pairs[row], ([], []))[0 if is_target[row] else 1].append(row)
        complete = [(np.array(a), np.array(b)) for a, b in members.values() if a and b]
        return cls(tuple(complete), len(pairs))

    @property
    def distinct(self) -> int:
        """How many relabellings there are, the observed one included."""
        return prod(comb(len(target) + len(rest), len(target)) for target, rest in self.blocks)

    @property
    def mirrored(self) -> bool:
        """Whether the relabelling that swaps the sides is one of them, whose |score| ties with the observed one."""
        return all(len(target) == len(rest) for target, rest in self.blocks)

    def observed(self) -> np.ndarray:
        """(P,) coefficients of the labels as they are; 0 for prompts in no block."""
        c_P = np.zeros(self.prompts)
        for target, rest in self.blocks:
            c_P[target] = 1 / len(target) / len(self.blocks)
            c_P[rest] = -1 / len(rest) / len(self.blocks)
        return c_P

    def every(self) -> Iterator[np.ndarray]:
        """All relabellings, (some, P) at a time."""
        chosen = [
            np.array(list(combinations(range(len(target) + len(rest)), len(target))))
            for target, rest in self.blocks
        ]
        for start in range(0, self.distinct, self._rows()):
            number = np.arange(start, min(start + self._rows(), self.distinct))
            digits = []
            for options in chosen:
                number, digit = np.divmod(number, len(options))
                digits.append(options[digit])
            yield self._coefficients(digits)

    def sample(self, rng: np.random.Generator, draws: int) -> Iterator[np.ndarray]:
        """`draws` independent random relabellings, (some, P) at a time."""
        for start in range(0, draws, self._rows()):
            rows = min(self._rows(), draws - start)
            yield self._coefficients([random_choice(rng, rows, *block) for block in self.blocks])

    def bootstrap(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """(draws, P) coefficients of resampled prompts: within each group, or whole blocks if several."""
        c_P = self.observed()
        counts = np.zeros((draws, self.prompts))
        if len(self.blocks) == 1:
            for rows in self.blocks[0]:
                counts[:, rows] = resample(rng, draws, len(rows))
        else:
            counts_block = resample(rng, draws, len(self.blocks))
            for number, (target, rest) in enumerate(self.blocks):
                counts[:, target] = counts[:, rest] = counts_block[:, number, None]
        return counts * c_P

    def score_scale(self, maps_PM: np.ndarray) -> np.ndarray:
        """(M,) standard deviation of the score over all relabellings; 0 where no relabelling changes it."""
        variance = np.zeros(maps_PM.shape[1])
        for target, rest in self.blocks:
            rows = np.concatenate([target, rest])
            spread = maps_PM[rows].var(0, ddof=1)
            variance += spread * (1 / len(target) + 1 / len(rest)) / len(self.blocks) ** 2
        return np.sqrt(variance)

    def _rows(self) -> int:
        return max(1, _CELLS_AT_ONCE // self.prompts)

    def _coefficients(self, chosen: list[np.ndarray]) -> np.ndarray:
        c_RP = np.zeros((len(chosen[0]), self.prompts))
        for places, (target, rest) in zip(chosen, self.blocks, strict=True):
            rows = np.concatenate([target, rest])
            c_RP[:, rows] = -1 / len(rest) / len(self.blocks)
            np.put_along_axis(c_RP, rows[places], 1 / len(target) / len(self.blocks), axis=1)
        return c_RP


def is_missing(label: Hashable) -> bool:
    """Whether a label says that there is none: None, an empty text, NaN."""
    return label is None or label == "" or label != label


def random_choice(rng: np.random.Generator, draws: int, target: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(draws, len(target)): places of a uniformly random subset of the block, as many as the target has."""
    if len(target) == len(rest) == 1:
        return rng.integers(0, 2, (draws, 1))
    keys = rng.random((draws, len(target) + len(rest)), dtype=np.float32)
    return np.argpartition(keys, len(target) - 1, axis=1)[:, : len(target)]


def resample(rng: np.random.Generator, draws: int, size: int) -> np.ndarray:
    """(draws, size): how often each of `size` things is drawn."""
    return rng.multinomial(size, np.full(size, 1 / size), draws).astype(np.float64)
