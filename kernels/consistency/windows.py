"""How often experts are used in sliding windows of m tokens: all that SRP asks of a trace."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_amounts, as_labels, check_size
from ..compiled import compiled_if_worth_it
from ..statistics.binomial import binomial_probabilities
from .sequences import as_sequence, as_starts

_PLAIN_CELL = 3e-9
"""Seconds for one token and expert in the plain version."""


def window_uses(ids: ArrayLike, num_experts: int, m: int) -> np.ndarray:
    """In how many windows of m tokens of one sequence each expert is used f times.

    Args:
        ids: chosen experts of one sequence, (T, k); -1 is an empty slot.
        num_experts: E.
        m: tokens in a window.
    Returns:
        (E, m + 1) int64; a row sums to T - m + 1 windows (0 where T < m). Tables of sequences add up.
    Raises:
        ValueError: an id out of range or twice in one token, float ids, m below 1.
    """
    return window_uses_by_group(ids, num_experts, m, [0, len(as_sequence(ids, num_experts))], [0], 1)[0]


def window_uses_by_group(
    ids: ArrayLike, num_experts: int, m: int, starts: ArrayLike, groups: ArrayLike, num_groups: int
) -> np.ndarray:
    """`window_uses` of many sequences that lie one behind the other, added up by group.

    Args:
        ids, num_experts, m: as for `window_uses`, tokens of all sequences.
        starts: first token of each sequence, and T at the end, (S + 1,). No window crosses a bound.
        groups: group of each sequence, (S,); -1 leaves it out.
        num_groups: G.
    Returns:
        (G, E, m + 1) int64.
    """
    ids_TK, m = as_sequence(ids, num_experts), check_size(m, "m")
    bounds = as_starts(starts, len(ids_TK))
    group_S = as_labels(groups, "groups", len(bounds) - 1)
    table = np.zeros((num_groups, num_experts, m + 1), np.int64)
    if fast := compiled_if_worth_it(_windows_loop, _PLAIN_CELL * len(ids_TK) * num_experts):
        fast(table, np.zeros((2, num_experts), np.int64), ids_TK, bounds, group_S, m)
        return table
    for group, first, end in zip(group_S, bounds[:-1], bounds[1:], strict=True):
        if group >= 0 and end - first >= m:
            table[group] += _plain_windows(ids_TK[first:end], num_experts, m)
    return table


def independent_window_uses(shares: ArrayLike, m: int) -> np.ndarray:
    """`window_uses` to expect, as shares of the windows, where tokens choose independently of one another.

    Args:
        shares: share of tokens that choose each expert, (E,), each in [0, 1].
    Returns:
        (E, m + 1); a row sums to 1. `routing_performance` of it is the SRP that load alone gives.
    """
    shares_E = as_amounts(shares, "shares")
    if shares_E.ndim != 1 or shares_E.max(initial=0) > 1:
        raise ValueError(f"shares must be (E,) numbers from 0 to 1, got shape {shares_E.shape}")
    return binomial_probabilities(check_size(m, "m"), shares_E).T


def _plain_windows(ids_TK: np.ndarray, num_experts: int, m: int) -> np.ndarray:
    token, slot = np.nonzero(ids_TK >= 0)
    expert = ids_TK[token, slot].astype(np.int64)
    # Running sums of uses, (T + 1, E): the uses in a window are one difference, (T - m + 1, E), whatever m is.
    uses = np.zeros((len(ids_TK) + 1, num_experts), np.int32)
    uses[token + 1, expert] = 1
    np.cumsum(uses, axis=0, out=uses)
    within = uses[m:] - uses[:-m]
    # Uses 0 .. m of expert e are counted in row e of (E, m + 1).
    keys = within + np.arange(num_experts) * (m + 1)
    return np.bincount(keys.ravel(), minlength=num_experts * (m + 1)).reshape(num_experts, m + 1)


def _windows_loop(
    table: np.ndarray,
    room_2E: np.ndarray,
    ids_TK: np.ndarray,
    starts: np.ndarray,
    group_S: np.ndarray,
    m: int,
) -> None:
    """Only experts that enter or leave a window are touched: each stays `f` uses from window `since` on."""
    f, since = room_2E[0], room_2E[1]
    for s in range(len(starts) - 1):
        first, group = starts[s], group_S[s]
        windows = starts[s + 1] - first - m + 1
        if group < 0 or windows <= 0:
            continue
        f[:] = 0
        since[:] = 0
        for t in range(starts[s + 1] - first):
            window = t - m + 1
            for i in range(ids_TK.shape[1]):
                expert = ids_TK[first + t, i]
                if expert >= 0:
                    if window > 0:
                        table[group, expert, f[expert]] += window - since[expert]
                        since[expert] = window
                    f[expert] += 1
                if window > 0:
                    expert = ids_TK[first + t - m, i]
                    if expert >= 0:
                        table[group, expert, f[expert]] += window - since[expert]
                        since[expert] = window
                        f[expert] -= 1
        for expert in range(len(f)):
            table[group, expert, f[expert]] += windows - since[expert]
