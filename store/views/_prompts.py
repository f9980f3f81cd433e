"""What rollups say of each prompt at one layer: its mean router probabilities, and how often it uses each expert.

Shape legend: P prompts that have tokens of the span, U parallel units, N languages, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...kernels.alignment import entropy
from ..arrays import RollupRows, sum_rows
from ..errors import StoreError
from ..reader import Trace
from ._units import Span, Units, by_unit

_BLOCK = 1 << 16
"""Probabilities scaled at once; as many as `pairwise_divergence` takes at once."""


def distributions(trace: Trace, layer: int, stream: str, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """Mean router probabilities of each prompt that has tokens of the span.

    Returns:
        (P,) rows in `Trace.prompts()`, rising; (P, E), scaled to sum to 1; NaN for a prompt without any.
    Raises:
        StoreError: the trace holds no router probabilities.
    """
    rows = _probabilities(trace, layer, stream)
    prompts_P, group_R = _by_prompt(rows, span.rows(trace, rows))
    sum_PE = rows.grouped("probability_sum", group_R, len(prompts_P))
    assert sum_PE is not None
    sum_PE[_scale(sum_PE) <= 0] = np.nan
    return prompts_P, sum_PE


def unit_distributions(
    trace: Trace, units: Units, layer: int, stream: str, span: Span
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The same in the grid of units, some units at a time: arrays of a whole layer would not stay in the caches.

    Yields:
        which units; (some, N, E), 0 where a language lacks the unit; present (some, N).
    """
    if not units.single:
        yield slice(0, units.shape[0]), *by_unit(units, *distributions(trace, layer, stream, span))
        return
    rows = _probabilities(trace, layer, stream)
    languages = units.shape[1]
    cell_R = np.where(span.rows(trace, rows), units.cell_P[rows.prompt_R], -1)
    for cells, q_CE, total_C in _scaled_blocks(rows, cell_R, units.shape[0], languages):
        here = slice(cells.start // languages, cells.stop // languages)
        yield here, q_CE.reshape(-1, languages, rows.num_experts), (total_C > 0).reshape(-1, languages)


def entropies(trace: Trace, layer: int, stream: str, span: Span) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prompts as `distributions` has them (P,), and the entropy of their distributions (P,)."""
    rows = _probabilities(trace, layer, stream)
    prompts_P, group_R = _by_prompt(rows, span.rows(trace, rows))
    values_P = np.full(len(prompts_P), np.nan)
    for here, q_PE, total_P in _scaled_blocks(rows, group_R, len(prompts_P), 1):
        if (valid := total_P > 0).any():
            values_P[here][valid] = entropy(q_PE if valid.all() else q_PE[valid])
    return prompts_P, values_P


def _scaled_blocks(
    rows: RollupRows, group_R: np.ndarray, times: int, together: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Distributions of `times` * `together` groups of rows, those of `together` groups never torn apart: which
    groups, (some, E) scaled to sum to 1 or 0, and what they summed to, (some,)."""
    assert rows.probability_sum is not None
    order = np.argsort(group_R, kind="stable")
    step = max(1, _BLOCK // (together * rows.num_experts)) * together
    for first in range(0, times * together, step):
        here = slice(first, min(first + step, times * together))
        at = order[slice(*np.searchsorted(group_R, [here.start, here.stop], sorter=order))]
        q_GE = sum_rows(rows.probability_sum[at], group_R[at] - first, here.stop - first, np.float64)
        yield here, q_GE, _scale(q_GE)


def _scale(sums_XE: np.ndarray) -> np.ndarray:
    """Scale rows in place to sum to 1, all that are not 0; returns what they summed to, (X,)."""
    total = sums_XE.sum(1)
    np.divide(sums_XE, total[:, None], out=sums_XE, where=total[:, None] > 0)
    return total


def rates(
    trace: Trace, layer: int, stream: str, span: Span, experts: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each prompt's tokens that choose each expert.

    Args:
        experts: only these, in this order.
    Returns:
        (P,) rows in `Trace.prompts()`, rising; (P, E).
    """
    prompts_P, tokens_P, count_PE = counts(trace, layer, stream, span, experts)
    return prompts_P, count_PE / tokens_P[:, None]


def counts(
    trace: Trace, layer: int, stream: str, span: Span, experts: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the prompts (P,), their tokens (P,), and the tokens that choose each expert (P, E)."""
    rows = trace.rollups(layer, stream, sums=("count",))
    prompts_P, group_R = _by_prompt(rows, span.rows(trace, rows))
    tokens_P = sum_rows(rows.tokens_R, group_R, len(prompts_P), np.int64)
    if experts is not None and rows.count is not None and rows.cell_experts is None:
        return prompts_P, tokens_P, sum_rows(rows.count[:, experts], group_R, len(prompts_P), np.int64)
    count_PE = rows.grouped("count", group_R, len(prompts_P))
    assert count_PE is not None
    return prompts_P, tokens_P, count_PE if experts is None else count_PE[:, experts]


def _probabilities(trace: Trace, layer: int, stream: str) -> RollupRows:
    rows = trace.rollups(layer, stream, sums=("probability_sum",))
    if rows.probability_sum is None:
        raise StoreError(
            f"layer {layer}, stream {stream!r}: the trace holds no router probabilities, "
            "which alignment needs (imported events have none)"
        )
    return rows


def _by_prompt(rows: RollupRows, wanted_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prompts that have any wanted row, rising, and the number of its prompt for each row or -1."""
    prompt = rows.prompt_R[wanted_R]
    prompts_P = prompt if (prompt[1:] > prompt[:-1]).all() else np.unique(prompt)
    group_R = np.full(len(rows.prompt_R), -1, np.int64)
    group_R[wanted_R] = np.searchsorted(prompts_P, prompt)
    return prompts_P, group_R
