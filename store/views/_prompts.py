"""What rollups say of each prompt at one layer: its mean router probabilities, and how often it uses each expert.

Shape legend: P prompts that have tokens of the span, U parallel units, N languages, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays import RollupRows, sum_rows
from ..errors import StoreError
from ..reader import Trace
from ._units import Span, Units, by_unit


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
    total = sum_PE.sum(1, keepdims=True)
    q_PE = np.divide(sum_PE, total, out=sum_PE, where=total > 0)
    q_PE[total[:, 0] <= 0] = np.nan
    return prompts_P, q_PE


def unit_distributions(
    trace: Trace, units: Units, layer: int, stream: str, span: Span
) -> tuple[np.ndarray, np.ndarray]:
    """The same in the grid of units: (U, N, E), 0 where a language lacks the unit, and present (U, N)."""
    if not units.single:
        return by_unit(units, *distributions(trace, layer, stream, span))
    rows = _probabilities(trace, layer, stream)
    cell_R = np.where(span.rows(trace, rows), units.cell_P[rows.prompt_R], -1)
    sum_CE = rows.grouped("probability_sum", cell_R, units.shape[0] * units.shape[1])
    assert sum_CE is not None
    total = sum_CE.sum(1, keepdims=True)
    q_CE = np.divide(sum_CE, total, out=sum_CE, where=total > 0)
    return q_CE.reshape(*units.shape, -1), (total > 0).reshape(units.shape)


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
