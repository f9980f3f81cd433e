"""Rollups in memory, as arrays that views can sum.

`RollupRows` are the rows as they are read; `RollupArrays` are sums per prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import StoreError
from ..write.rollups import PHASES

_DENSE_CELLS = 1 << 28
_FEW_GROUPS = 64
_FEW_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class RollupRows:
    """Rollup rows of one router over all parts; R rows sorted by prompt."""

    num_experts: int
    prompt_R: np.ndarray
    """(R,) row of the prompt in `Trace.prompts()`."""
    phase_R: np.ndarray
    """(R,) 0 prefill, 1 decode."""
    special_R: np.ndarray
    completion_R: np.ndarray
    tokens_R: np.ndarray
    nan_tokens_R: np.ndarray
    entropy_sum_R: np.ndarray | None
    cell_experts: np.ndarray | None
    """Expert of each cell, with `cell_rows`, where rollups are sparse; None where cells are (R, E) in
    order."""
    cell_rows: np.ndarray | None
    count: np.ndarray | None = None
    """(R, E), or one number a cell, in the smallest unsigned type that holds them: add them up in a wider one.
    None, as those below, where it was not asked for."""
    weight_sum: np.ndarray | None = None
    weight_max: np.ndarray | None = None
    probability_sum: np.ndarray | None = None
    """(R, E)."""

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def mask(self, special: bool, phase: str | None, completion: bool | None) -> np.ndarray:
        """(R,) rows of the wanted tokens; see `Trace.rollup_arrays`."""
        wanted = np.ones(len(self.prompt_R), bool)
        if not special:
            wanted &= ~self.special_R
        if phase is not None:
            if phase not in PHASES:
                raise StoreError(f"phase is {phase!r}; it is one of {', '.join(PHASES)}")
            wanted &= self.phase_R == PHASES.index(phase)
        if completion is not None:
            wanted &= self.completion_R == completion
        return wanted

    def grouped(self, name: str, group_R: np.ndarray, num_groups: int) -> np.ndarray | None:
        """(G, E) sums of `count` (int64) or a float column (float64) over the rows of each group.

        Args:
            group_R: group of each row, -1 where it is left out.
        Returns:
            None where the trace does not have the column.
        """
        values = getattr(self, name)
        if values is None:
            return None
        if num_groups * self.num_experts > _DENSE_CELLS:
            raise StoreError(
                f"{num_groups:,} × {self.num_experts:,} sums (groups × experts) are too many to show at once"
            )
        kind = np.int64 if name == "count" else np.float64
        if self.cell_experts is not None and name != "probability_sum":
            return self._grouped_cells(values, group_R, num_groups, kind)
        return sum_rows(values, group_R, num_groups, kind)

    def _grouped_cells(
        self, values: np.ndarray, group_R: np.ndarray, num_groups: int, kind: type
    ) -> np.ndarray:
        assert self.cell_rows is not None
        assert self.cell_experts is not None
        group = group_R[self.cell_rows]
        kept = group >= 0
        at = group[kept] * self.num_experts + self.cell_experts[kept]
        sums = np.bincount(at, weights=values[kept], minlength=num_groups * self.num_experts)
        return sums.reshape(num_groups, self.num_experts).astype(kind)


def sum_rows(values: np.ndarray, group_R: np.ndarray, num_groups: int, kind: type) -> np.ndarray:
    """(G, ...) sums of rows by group; group -1 is left out. Whole numbers are exact."""
    if values.ndim == 2 and num_groups <= _FEW_GROUPS < len(values):
        return _sum_into_few(values, group_R, num_groups, kind)
    kept = np.flatnonzero(group_R >= 0)
    out = np.zeros((num_groups, *values.shape[1:]), kind)
    if len(kept) == 0:
        return out
    group = group_R[kept]
    if len(values) == num_groups and np.array_equal(group, np.arange(num_groups)):
        return values.astype(kind)
    if (group[1:] < group[:-1]).any():
        order = np.argsort(group, kind="stable")
        kept, group = kept[order], group[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    lengths = np.diff(np.r_[starts, len(kept)])
    if lengths.max() > _FEW_ROWS:
        out[group[starts]] = np.add.reduceat(values[kept], starts, axis=0, dtype=kind)
        return out
    # Few rows in each group, as where a group is a prompt: reduceat is slow at that.
    if len(starts) == num_groups:
        out = values[kept[starts]].astype(kind)
    else:
        out[group[starts]] = values[kept[starts]]
    for more in range(1, int(lengths.max())):
        longer = starts[lengths > more]
        out[group[longer]] += values[kept[longer + more]]
    return out


def _sum_into_few(values: np.ndarray, group_R: np.ndarray, num_groups: int, kind: type) -> np.ndarray:
    """The same group by group: a few long sums are faster than reduceat, and need no threads as a product would."""
    order = np.argsort(group_R.astype(np.int16), kind="stable")
    bounds = np.searchsorted(group_R[order], np.arange(num_groups + 1))
    sums = np.zeros((num_groups, values.shape[1]), kind)
    for group in np.flatnonzero(bounds[1:] > bounds[:-1]):
        values[order[bounds[group] : bounds[group + 1]]].sum(0, dtype=kind, out=sums[group])
    return sums


@dataclass(frozen=True, kw_only=True)
class RollupArrays:
    """Sums per prompt at one router: P chosen prompts with at least one token there, E experts."""

    layer: int
    stream: str
    num_experts: int
    prompt_index: np.ndarray
    """(P,) int64, rising: row of the prompt in `Trace.prompts()` (without `where`)."""
    tokens: np.ndarray
    """(P,) int64: tokens that passed the router."""
    count: np.ndarray
    """(P, E) int64: tokens that chose each expert."""
    weight_sum: np.ndarray | None
    """(P, E) float64, or None where the trace has no gate weights."""
    probability_sum: np.ndarray | None
    """(P, E) float64: full router probabilities summed over the tokens without NaN; None where unknown."""
    entropy_sum: np.ndarray | None
    """(P,) float64, nats: entropy of each token's probabilities, summed; None where unknown."""
    nan_tokens: np.ndarray
    """(P,) int64: tokens whose logits held a NaN; they are not in `probability_sum`."""

    @property
    def mean_probability(self) -> np.ndarray | None:
        """(P, E): mean of the full router probabilities over a prompt's tokens; rows sum to 1 under softmax.
        A prompt all of whose tokens are NaN has 0 everywhere."""
        if self.probability_sum is None:
            return None
        valid = np.maximum(self.tokens - self.nan_tokens, 1)
        return self.probability_sum / valid[:, None]


def per_prompt(rows: RollupRows, layer: int, stream: str, wanted_R: np.ndarray) -> RollupArrays:
    """Sum the wanted rows of each prompt."""
    prompts = np.unique(rows.prompt_R[wanted_R])
    group_R = np.full(len(rows.prompt_R), -1, np.int64)
    group_R[wanted_R] = np.searchsorted(prompts, rows.prompt_R[wanted_R])
    total = len(prompts)
    count = rows.grouped("count", group_R, total)
    assert count is not None
    entropy = rows.entropy_sum_R
    return RollupArrays(
        layer=layer,
        stream=stream,
        num_experts=rows.num_experts,
        prompt_index=prompts.astype(np.int64),
        tokens=sum_rows(rows.tokens_R, group_R, total, np.int64),
        count=count,
        weight_sum=rows.grouped("weight_sum", group_R, total),
        probability_sum=rows.grouped("probability_sum", group_R, total),
        entropy_sum=None if entropy is None else sum_rows(entropy, group_R, total, np.float64),
        nan_tokens=sum_rows(rows.nan_tokens_R, group_R, total, np.int64),
    )
