"""Entropy and divergence of routing distributions.

Everything is a sum of terms that cannot be negative, so no result leaves its bounds by rounding:

1. m = (p + q) / 2 and d = (p - q) / (p + q), elementwise, in float64;
2. JSD = 1/2 sum m [(1 + d) log(1 + d) + (1 - d) log(1 - d)];
3. KL(m || uniform) = 1/E sum [(1 + x) log(1 + x) - x] with x = E m - 1; it is log E - H(m);
4. routing divergence = JSD / (JSD + KL(m || uniform)), because log E - (H(p) + H(q)) / 2 = JSD + log E -
H(m).

Source: Bandarkar et al. 2025, arXiv 2510.04694. Traps: docs/methods/alignment.md.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import divide, first_index, to_numpy

_ROW_PIECE = 1 << 15
"""Probabilities worked on at once: a dozen float64 arrays of this size stay in a core's caches."""

_SMALL = 0.02
"""Below this |x| the closed forms lose digits to cancellation and a short series is exact to rounding."""


def entropy(p: ArrayLike, axis: int = -1) -> np.ndarray:
    """Shannon entropy of routing distributions, in nats.

    Args:
        p: probabilities, (..., E), that sum to 1 along `axis`.
    Returns:
        0 .. log E, shape (...).
    Raises:
        ValueError: a value is negative or NaN, or a distribution does not sum to 1 (see
            `routing_divergence`).
    """
    return _by_rows(_entropy_rows, axis, p=p)


def js_divergence(p: ArrayLike, q: ArrayLike, axis: int = -1) -> np.ndarray:
    """Jensen-Shannon divergence H((p + q) / 2) - (H(p) + H(q)) / 2, in nats.

    Args:
        p, q: probabilities, (..., E), that sum to 1 along `axis`; leading axes broadcast.
    Returns:
        0 .. log 2, shape (...).
    Raises:
        ValueError: as for `routing_divergence`.
    """
    return _by_rows(_js_rows, axis, p=p, q=q)


def routing_divergence(p: ArrayLike, q: ArrayLike, axis: int = -1) -> np.ndarray:
    """Entropy-normalised Jensen-Shannon divergence between two routing distributions.

    Args:
        p, q: full router probabilities (E values, not the top-k weights), each the mean over one sequence's
            tokens, (..., E); each sums to 1 along `axis`; leading axes broadcast. Any float type; computed in
            float64, after each distribution was scaled to sum to 1 exactly.
    Returns:
        Divergence in [0, 1], shape (...): JSD / (log E - (H(p) + H(q)) / 2). Exactly 0 where p equals q
        (also for one-hot or uniform, where the quotient would be 0/0), exactly symmetric.
    Raises:
        ValueError: a value is negative or NaN, or a distribution does not sum to 1; the message names the
            index. Tolerance 1e-4; for float16 and bfloat16, which cannot hold a sum that well, one step at 1.
    Source:
        Bandarkar et al. 2025, arXiv 2510.04694, appendix A.4. Bounded by 1, but two disjoint uniform top-8
        choices out of 128 reach only 0.25, so scale plots to the data. Compute it for each parallel pair and
        average over pairs; never on pooled corpora.
    """
    return _by_rows(_divergence_rows, axis, p=p, q=q)


def _by_rows(function: Callable[..., np.ndarray], axis: int, **inputs: ArrayLike) -> np.ndarray:
    """Apply `function` of (rows, E) float64 blocks to distributions along `axis`, a cache-sized piece at a
    time."""
    arrays = [np.moveaxis(_as_float(values, name), axis, -1) for name, values in inputs.items()]
    tolerances = [_sum_tolerance(values) for values in inputs.values()]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    if any(array.shape[-1] != shape[-1] for array in arrays):
        raise ValueError(f"p has {arrays[0].shape[-1]} experts, q has {arrays[-1].shape[-1]}")
    spread = [np.broadcast_to(array, shape).reshape(-1, shape[-1]) for array in arrays]
    result = np.empty(len(spread[0]))
    step = max(1, _ROW_PIECE // shape[-1])
    for start in range(0, len(result), step):
        piece = slice(start, start + step)
        blocks = [
            _normalised(block[piece], tolerance, name, start, shape[:-1])
            for block, tolerance, name in zip(spread, tolerances, inputs, strict=True)
        ]
        result[piece] = function(*blocks)
    return result.reshape(shape[:-1])[()]


def _as_float(values: ArrayLike, name: str) -> np.ndarray:
    array = to_numpy(values)
    if array.dtype.kind not in "iuf" or array.ndim == 0 or 0 in array.shape[-1:]:
        raise ValueError(f"{name} must hold probabilities of shape (..., E), got {array.dtype} {array.shape}")
    return array


def _sum_tolerance(values: ArrayLike) -> float:
    dtype = str(getattr(values, "dtype", "float64"))
    return {"float16": 1e-3, "torch.float16": 1e-3, "torch.bfloat16": 8e-3}.get(dtype, 1e-4)


def _normalised(
    block: np.ndarray, tolerance: float, name: str, start: int, leading: tuple[int, ...]
) -> np.ndarray:
    p = block.astype(np.float64)
    total = p.sum(-1)
    # A NaN fails every comparison, so one test finds all three faults.
    good = (np.abs(total - 1.0) <= tolerance) & (p.min(-1) >= 0)
    if not good.all():
        row = int(np.argmin(good))
        place = np.zeros(leading, bool)
        place.reshape(-1)[start + row] = True
        _refuse(p[row], f"{name}{first_index(place) if leading else ''}", tolerance)
    p /= total[:, None]
    return p


def _refuse(p_E: np.ndarray, where: str, tolerance: float) -> None:
    if np.isnan(p_E).any():
        raise ValueError(f"{where} is NaN at expert {int(np.argmax(np.isnan(p_E)))}")
    if (p_E < 0).any():
        expert = int(np.argmax(p_E < 0))
        raise ValueError(f"{where} is negative at expert {expert}: {p_E[expert]}")
    raise ValueError(f"{where} sums to {p_E.sum():.6g}, not to 1 (tolerance {tolerance:g})")


def _entropy_rows(p: np.ndarray) -> np.ndarray:
    terms = np.log(p, out=np.zeros_like(p), where=p > 0)
    terms *= p
    return np.clip(-terms.sum(-1), 0.0, np.log(p.shape[-1]))


def _js_rows(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    both = p + q
    d = divide(p - q, both)
    return np.minimum(0.25 * np.einsum("re,re->r", both, _two_sided(d)), np.log(2.0))


def _divergence_rows(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    js = _js_rows(p, q)
    from_uniform = _one_sided((p + q) * (p.shape[-1] / 2.0) - 1.0).mean(-1)
    return divide(js, js + from_uniform)


def _two_sided(d: np.ndarray) -> np.ndarray:
    """(1 + d) log(1 + d) + (1 - d) log(1 - d) for |d| <= 1, to rounding."""
    plus, minus = 1.0 + d, 1.0 - d
    closed = _x_log_x(plus) + _x_log_x(minus)
    s = d * d
    series = s * (1 + s * (1 / 6 + s * (1 / 15 + s * (1 / 28))))
    return np.where(s < _SMALL**2, series, closed)


def _one_sided(x: np.ndarray) -> np.ndarray:
    """(1 + x) log(1 + x) - x for x >= -1, to rounding; never negative."""
    closed = _x_log_x(1.0 + x) - x
    series = (
        x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x * (1 / 20 - x * (1 / 30 - x * (1 / 42 - x / 56))))))
    )
    return np.where(np.abs(x) < _SMALL, series, np.maximum(closed, 0.0))


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(x, out=np.zeros_like(x), where=x > 0)
