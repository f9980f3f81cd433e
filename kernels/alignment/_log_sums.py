"""Sum of s log s with s = p + q for pairs of distributions: nearly all the work of a language matrix.

The twin takes its own logarithm in float64, because a loop with a library call in it does not become vector
instructions. s = 2^k m with sqrt(1/2) <= m < sqrt(2), and with t = (m - 1) / (m + 1)

    log s = k log 2 + 2 t + t R(t^2)

where R is the minimax polynomial of FreeBSD's e_log.c. It is within two units of the last digit of `np.log`; sums of it
agree with the plain ones to 1e-14.
"""

import numpy as np

from ..compiled import compiled_if_worth_it, expect

TINY = 1e-300
"""Stands in for 0 under a logarithm that is multiplied by 0."""

_PLAIN_LOGARITHM = 3e-9
"""Seconds for one term in the plain version."""

_LOG_2 = 0.6931471805599453
_ROOT_HALF = np.int64(0x3FE6A09E667F3BCD)
"""The bits of sqrt(1/2)."""
_MANTISSA = np.int64(0x000FFFFFFFFFFFFF)
_EXPONENT_AT = np.int64(52)
_R1, _R2, _R3, _R4 = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
)
_R5, _R6, _R7 = 1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01  # fmt: skip


def expect_pair_log_sums(terms: int) -> None:
    """So many terms, over units, pairs and experts, will be asked for: see `compiled.expect`."""
    example = (np.zeros((0, 0)), np.zeros((0, 0, 0)), np.zeros(0, np.int64), np.zeros(0, np.int64))
    expect(_loop, _PLAIN_LOGARITHM * terms, example, any_order=True)


def pair_log_sums(p_UNE: np.ndarray, one_Q: np.ndarray, other_Q: np.ndarray) -> np.ndarray:
    """(U, Q) sums of (p + q) log(p + q), for Q pairs among the N float64 arrays of each unit."""
    if fast := compiled_if_worth_it(
        _loop, _PLAIN_LOGARITHM * len(p_UNE) * len(one_Q) * p_UNE.shape[2], any_order=True
    ):
        sums_UQ = np.empty((len(p_UNE), len(one_Q)))
        fast(sums_UQ, np.ascontiguousarray(p_UNE), one_Q, other_Q)
        return sums_UQ
    return plain_pair_log_sums(p_UNE, one_Q, other_Q)


def plain_pair_log_sums(p_UNE: np.ndarray, one_Q: np.ndarray, other_Q: np.ndarray) -> np.ndarray:
    """The same without a compiler."""
    sums_QU = np.empty((len(one_Q), len(p_UNE)))
    p_NUE = np.ascontiguousarray(p_UNE.transpose(1, 0, 2))  # so that a pair is added in one long stretch
    above_NUE = p_NUE + TINY  # so that no sum of two is 0 under the logarithm
    most = int(np.bincount(one_Q).max(initial=0))
    # Used again for every pair: fresh memory costs as much as the logarithms.
    room = np.empty((2, most * p_NUE[0].size if len(p_NUE) else 0))
    for first in np.flatnonzero(np.bincount(one_Q)):
        pairs = _as_slice(np.flatnonzero(one_Q == first))
        their_QUE = p_NUE[_as_slice(other_Q[pairs])]
        sum_QUE, log_QUE = room[:, : their_QUE.size].reshape(2, *their_QUE.shape)
        np.add(above_NUE[first], their_QUE, out=sum_QUE)
        np.log(sum_QUE, out=log_QUE)
        sums_QU[pairs] = np.vecdot(sum_QUE, log_QUE)
    return sums_QU.T


def _as_slice(numbers: np.ndarray) -> np.ndarray | slice:
    """Consecutive numbers as a slice, which needs no copy."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first == len(numbers) - 1 and (numbers[1:] - numbers[:-1] == 1).all():
        return slice(first, last + 1)
    return numbers


def _loop(sums_UQ: np.ndarray, p_UNE: np.ndarray, one_Q: np.ndarray, other_Q: np.ndarray) -> None:
    for unit in range(p_UNE.shape[0]):
        for pair in range(len(one_Q)):
            p_E, q_E = p_UNE[unit, one_Q[pair]], p_UNE[unit, other_Q[pair]]
            total = 0.0
            for expert in range(p_UNE.shape[2]):
                s = p_E[expert] + q_E[expert]  # 0 has a finite logarithm here, and adds 0
                bits = np.float64(s).view(np.int64) - _ROOT_HALF
                m = np.int64((bits & _MANTISSA) + _ROOT_HALF).view(np.float64)
                t = (m - 1.0) / (m + 1.0)
                z = t * t
                r = z * (_R1 + z * (_R2 + z * (_R3 + z * (_R4 + z * (_R5 + z * (_R6 + z * _R7))))))
                total += s * ((bits >> _EXPONENT_AT) * _LOG_2 + (2.0 * t + t * r))
            sums_UQ[unit, pair] = total
