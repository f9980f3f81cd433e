"""What rollups say of each prompt at one layer: its mean router probabilities, and how often it uses each expert.

Shape legend: P prompts that have tokens of the span, U parallel units, N languages, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

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
    assert rows.probability_sum is not None
    languages = units.shape[1]
    cell_R = np.where(span.rows(trace, rows), units.cell_P[rows.prompt_R], -1)
    order = np.argsort(cell_R, kind="stable")
    step = max(1, _BLOCK // (languages * rows.num_experts))
    for first in range(0, units.shape[0], step):
        here = slice(first, min(first + step, units.shape[0]))
        cells = (here.stop - here.start) * languages
        low, high = np.searchsorted(cell_R, [first * languages, here.stop * languages], sorter=order)
        at = order[low:high]
        q_CE = sum_rows(rows.probability_sum[at], cell_R[at] - first * languages, cells, np.float64)
        total = _scale(q_CE)
        yield here, q_CE.reshape(-1, languages, rows.num_experts), (total > 0).reshape(-1, languages)


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
