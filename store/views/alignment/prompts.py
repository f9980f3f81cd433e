"""What rollups say of each prompt at one layer: its mean router probabilities, and how often it uses each expert.

Shape legend: P prompts that have tokens of the tokens, U parallel units, N languages, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ....kernels.alignment import divergence_and_entropy
from ....kernels.counting.token_overlap import token_overlap
from ...errors import NotRecorded
from ...read.arrays import RollupRows, sum_rows
from ...read.token_filter import TokenFilter
from ...read.trace_rows import TraceRows
from .units import Units, by_unit

_BLOCK = 1 << 16
"""Numbers worked on at once; as many as `pairwise_divergence` takes at once."""


def distributions(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray]:
    """Mean router probabilities of each prompt that has tokens of the span.

    Returns:
        (P,) rows in `Trace.prompts()`, rising; (P, E), scaled to sum to 1; NaN for a prompt without any.
    Raises:
        NotRecorded: the trace holds no router probabilities.
    """
    rows = _probabilities(trace, layer, stream)
    prompts_P, group_R = _by_prompt(rows, tokens.rows(trace, rows))
    sum_PE = rows.grouped("probability_sum", group_R, len(prompts_P))
    assert sum_PE is not None
    sum_PE[_scale(sum_PE) <= 0] = np.nan
    return prompts_P, sum_PE


def unit_sums(
    trace: TraceRows, units: Units, layer: int, stream: str, tokens: TokenFilter
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Distributions in the grid of units as they were summed up, some units at a time: arrays of a whole layer would
    not stay in the caches.

    Yields:
        which units; (some, N, E), not scaled, 0 where a language lacks the unit; present (some, N).
    """
    if not units.single:
        yield slice(0, units.shape[0]), *by_unit(units, *distributions(trace, layer, stream, tokens))
        return
    rows = _probabilities(trace, layer, stream)
    assert rows.probability_sum is not None
    languages = units.shape[1]
    cell_R = np.where(tokens.rows(trace, rows), units.cell_P[rows.prompt_R], -1)
    for cells, sum_CE in _blocks(rows.probability_sum, cell_R, units.shape[0], languages):
        here = slice(cells.start // languages, cells.stop // languages)
        there_C = sum_CE.sum(1) > 0
        yield here, sum_CE.reshape(-1, languages, rows.num_experts), there_C.reshape(-1, languages)


def entropies(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prompts as `distributions` has them (P,), and the entropy of their distributions (P,)."""
    rows = _probabilities(trace, layer, stream)
    assert rows.probability_sum is not None
    prompts_P, group_R = _by_prompt(rows, tokens.rows(trace, rows))
    values_P = np.full(len(prompts_P), np.nan)
    for here, sum_PE in _blocks(rows.probability_sum, group_R, len(prompts_P), 1):
        there_P = sum_PE.sum(1) > 0
        entropy_P1 = divergence_and_entropy(sum_PE[:, None], [], [], there_P[:, None])[1]
        values_P[here] = np.where(there_P, entropy_P1[:, 0], np.nan)
    return prompts_P, values_P


def _blocks(
    values_RE: np.ndarray, group_R: np.ndarray, times: int, together: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Sums of rows over `times` * `together` groups, those of `together` groups never torn apart: which groups, and
    (some, E) in float64, or the rows as they are where every group is one: not to be written to."""
    order = np.argsort(group_R, kind="stable")
    step = max(1, _BLOCK // (together * values_RE.shape[1])) * together
    for first in range(0, times * together, step):
        here = slice(first, min(first + step, times * together))
        at = order[slice(*np.searchsorted(group_R, [here.start, here.stop], sorter=order))]
        group = group_R[at]
        if np.array_equal(group, np.arange(here.start, here.stop)):
            in_order = len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all()
            yield here, values_RE[at[0] : at[-1] + 1] if in_order else values_RE[at]
        else:
            yield here, sum_rows(values_RE[at], group - first, here.stop - first, np.float64)


def _scale(sums_XE: np.ndarray) -> np.ndarray:
    """Scale rows in place to sum to 1, all that are not 0; returns what they summed to, (X,)."""
    total = sums_XE.sum(1)
    np.divide(sums_XE, total[:, None], out=sums_XE, where=total[:, None] > 0)
    return total


def overlaps(trace: TraceRows, layer: int, stream: str, tokens: TokenFilter) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prompts (P,), and how much of their experts two of their tokens share (P,)."""
    rows = trace.rollups(layer, stream, sums=("count",))
    if rows.count is None or rows.cell_experts is not None:
        prompts_P, tokens_P, count_PE = counts(trace, layer, stream, tokens)
        return prompts_P, token_overlap(count_PE, tokens_P)
    prompts_P, group_R = _by_prompt(rows, tokens.rows(trace, rows))
    tokens_P = sum_rows(rows.tokens_R, group_R, len(prompts_P), np.int64)
    values_P = np.empty(len(prompts_P))
    for here, count_PE in _blocks(rows.count, group_R, len(prompts_P), 1):
        values_P[here] = token_overlap(count_PE, tokens_P[here])
    return prompts_P, values_P


def rate_sums(
    trace: TraceRows, units: Units, layer: int, stream: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray]:
    """`rates` of each language added up over units (N, E), and whether it has them all (N,)."""
    rows = trace.rollups(layer, stream, sums=("count",))
    if rows.count is None or rows.cell_experts is not None or not units.single:
        rate_UNE, present_UN = by_unit(units, *rates(trace, layer, stream, tokens))
        return rate_UNE.sum(0), np.asarray(present_UN.all(0))
    taken_R = np.flatnonzero(tokens.rows(trace, rows) & (units.cell_P[rows.prompt_R] >= 0))
    prompt_R = rows.prompt_R[taken_R]
    tokens_P = np.bincount(prompt_R, weights=rows.tokens_R[taken_R], minlength=len(units.cell_P))
    weight_P = np.divide(1.0, tokens_P, out=np.zeros(len(tokens_P)), where=tokens_P > 0)
    language_R = units.cell_P[prompt_R] % units.shape[1]
    sum_NE = np.zeros((units.shape[1], rows.num_experts))
    for language in range(units.shape[1]):
        own = language_R == language
        # A prompt's rate is linear in the counts of its rows, so rows need not be added up by prompt first.
        sum_NE[language] = weight_P[prompt_R[own]] @ rows.count[taken_R[own]]
    have_N = np.bincount(units.cell_P[tokens_P > 0] % units.shape[1], minlength=units.shape[1])
    return sum_NE, have_N == units.shape[0]


def rates(
    trace: TraceRows,
    layer: int,
    stream: str,
    tokens: TokenFilter,
    experts: Sequence[int] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each prompt's tokens that choose each expert.

    Args:
        experts: only these, in this order.
    Returns:
        (P,) rows in `Trace.prompts()`, rising; (P, E).
    """
    prompts_P, tokens_P, count_PE = counts(trace, layer, stream, tokens, experts)
    return prompts_P, count_PE / tokens_P[:, None]


def counts(
    trace: TraceRows,
    layer: int,
    stream: str,
    tokens: TokenFilter,
    experts: Sequence[int] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the prompts (P,), their tokens (P,), and the tokens that choose each expert (P, E)."""
    rows = trace.rollups(layer, stream, sums=("count",))
    prompts_P, group_R = _by_prompt(rows, tokens.rows(trace, rows))
    tokens_P = sum_rows(rows.tokens_R, group_R, len(prompts_P), np.int64)
    if experts is not None and rows.count is not None and rows.cell_experts is None:
        return prompts_P, tokens_P, sum_rows(rows.count[:, experts], group_R, len(prompts_P), np.int64)
    count_PE = rows.grouped("count", group_R, len(prompts_P))
    assert count_PE is not None
    return prompts_P, tokens_P, count_PE if experts is None else count_PE[:, experts]


def _probabilities(trace: TraceRows, layer: int, stream: str) -> RollupRows:
    rows = trace.rollups(layer, stream, sums=("probability_sum",))
    if rows.probability_sum is None:
        raise NotRecorded(
            f"layer {layer}, stream {stream!r}: the trace holds no router probabilities, "
            "which alignment needs (an import has them where its file gives probabilities)"
        )
    return rows


def _by_prompt(rows: RollupRows, wanted_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prompts that have any wanted row, rising, and the number of its prompt for each row or -1."""
    prompt = rows.prompt_R[wanted_R]
    prompts_P = prompt if (prompt[1:] > prompt[:-1]).all() else np.unique(prompt)
    group_R = np.full(len(rows.prompt_R), -1, np.int64)
    group_R[wanted_R] = np.searchsorted(prompts_P, prompt)
    return prompts_P, group_R
