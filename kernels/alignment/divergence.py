"""Entropy and divergence of routing distributions.

With m = (p + q) / 2, all in float64 on distributions scaled to sum to 1:

1. JSD = (sum p log p + sum q log q) / 2 - sum m log m;
2. rest = log E + sum m log m, the divergence of m from uniform;
3. routing divergence = JSD / (JSD + rest), because log E - (H(p) + H(q)) / 2 = JSD + rest.
4. Where either of the two is small, its terms cancel: it is summed again from terms that can't be negative,
   JSD = 1/2 sum m [(1 + d) log(1 + d) + (1 - d) log(1 - d)] with d = (p - q) / (p + q), and
   rest = 1/E sum [(1 + x) log(1 + x) - x] with x = E m - 1. So no result leaves [0, 1] by rounding.

Source: Bandarkar et al. 2025, arXiv 2510.04694. Traps: docs/methods/alignment.md.
"""

from collections.abc import Callable, Iterator
from math import prod

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import first_index, to_numpy
from ._entropies import js_and_rest, normalised_divergence, sum_x_log_x

_PIECE = 1 << 15
"""Probabilities worked on at once: a dozen float64 arrays of this size stay in a core's caches."""

SUM_TOLERANCE = 1e-4


def entropy(p: ArrayLike, axis: int = -1) -> np.ndarray:
    """Shannon entropy of routing distributions, in nats.

    Args:
        p: probabilities, (..., E), that sum to 1 along `axis`.
    Returns:
        0 .. log E, shape (...).
    Raises:
        ValueError: as for `routing_divergence`.
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
        Divergence in [0, 1], shape (...): JSD / (log E - (H(p) + H(q)) / 2). Exactly symmetric; exactly 0
        where p equals q, and where both are uniform to the rounding of their type (there it would be 0/0).
    Raises:
        ValueError: a value is negative or NaN, or a distribution does not sum to 1; the message names the
            index. Tolerance 1e-4; for float16 and bfloat16, which cannot hold a sum that well, one step at 1.
    Source:
        Bandarkar et al. 2025, arXiv 2510.04694, appendix A.4. Bounded by 1, but two disjoint uniform top-8
        choices out of 128 reach only 0.25, so scale plots to the data. Compute it for each parallel pair and
        average over pairs; never on pooled corpora.
    """
    nothing = max(rounding_step(p), rounding_step(q)) ** 2
    return _by_rows(lambda p_RE, q_RE: _divergence_rows(p_RE, q_RE, nothing), axis, p=p, q=q)


def _by_rows(function: Callable[..., np.ndarray], axis: int, **inputs: ArrayLike) -> np.ndarray:
    """Apply `function` of (rows, E) float64 blocks to distributions along `axis`, a piece at a time.

    Pieces fit a core's caches, and broadcast inputs are never copied as a whole.
    """
    arrays = {name: np.moveaxis(_as_float(values, name), axis, -1) for name, values in inputs.items()}
    tolerances = {name: max(SUM_TOLERANCE, rounding_step(values)) for name, values in inputs.items()}
    num_experts = {array.shape[-1] for array in arrays.values()}
    if len(num_experts) > 1:
        raise ValueError(f"p and q must have as many experts, got {sorted(num_experts)}")
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    spread = {name: np.broadcast_to(array, shape) for name, array in arrays.items()}
    result = np.empty(shape[:-1])
    for piece in _pieces(shape[:-1], max(1, _PIECE // shape[-1])):
        blocks = [
            normalised(array[piece].reshape(-1, shape[-1]), tolerances[name], name, shape[:-1], piece)
            for name, array in spread.items()
        ]
        result[piece] = function(*blocks).reshape(result[piece].shape)
    return result[()]


def _pieces(leading: tuple[int, ...], rows: int) -> Iterator[tuple[int | slice, ...]]:
    """Indexes that cut an array of this shape into pieces of at most `rows` rows (or single rows)."""
    if prod(leading) <= rows:
        yield ()
        return
    step = rows // prod(leading[1:])
    if step == 0:
        for first in range(leading[0]):
            for rest in _pieces(leading[1:], rows):
                yield (first, *rest)
    else:
        for first in range(0, leading[0], step):
            yield (slice(first, first + step),)


def _as_float(values: ArrayLike, name: str) -> np.ndarray:
    array = to_numpy(values)
    if array.dtype.kind not in "iuf" or array.ndim == 0 or 0 in array.shape[-1:]:
        raise ValueError(f"{name} must hold probabilities of shape (..., E), got {array.dtype} {array.shape}")
    return array


def rounding_step(values: ArrayLike) -> float:
    """Relative rounding of the type that probabilities came in."""
    steps = {"float16": 1e-3, "torch.float16": 1e-3, "torch.bfloat16": 8e-3}
    steps |= {"float32": 1.2e-7, "torch.float32": 1.2e-7}
    return steps.get(str(getattr(values, "dtype", "float64")), 2.3e-16)


def normalised(
    block: np.ndarray, tolerance: float, name: str, leading: tuple[int, ...], piece: tuple[int | slice, ...]
) -> np.ndarray:
    """Rows (R, E) of probabilities in float64, each divided by its sum.

    Args:
        block: `piece` of an array `name` whose leading dimensions are `leading`.
        tolerance: how far a row's sum may lie from 1.
    Raises:
        ValueError: a NaN, a negative value or another sum; the message says where in the array.
    """
    p = block.astype(np.float64)
    total = p.sum(-1)
    # A NaN fails every comparison, so the same tests find it.
    if not (p.min(initial=0.0) >= 0 and np.abs(total - 1.0).max(initial=0.0) <= tolerance):
        row = int(np.argmin((np.abs(total - 1.0) <= tolerance) & (p.min(-1) >= 0)))
        place = np.zeros(leading, bool)
        place[piece] = np.arange(len(p)).reshape(place[piece].shape) == row
        _refuse(p[row], f"{name}{first_index(place)}", tolerance)
    p *= (1.0 / total)[:, None]
    return p


def _refuse(p_E: np.ndarray, where: str, tolerance: float) -> None:
    if np.isnan(p_E).any():
        raise ValueError(f"{where} is NaN at expert {int(np.argmax(np.isnan(p_E)))}")
    if (p_E < 0).any():
        expert = int(np.argmax(p_E < 0))
        raise ValueError(f"{where} is negative at expert {expert}: {p_E[expert]}")
    raise ValueError(f"{where} sums to {p_E.sum():.6g}, not to 1 (tolerance {tolerance:g})")


def _entropy_rows(p: np.ndarray) -> np.ndarray:
    return np.clip(-sum_x_log_x(p), 0.0, np.log(p.shape[-1])) + 0.0


def _js_rows(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.minimum(js_and_rest(p, q)[0], np.log(2.0))


def _divergence_rows(p: np.ndarray, q: np.ndarray, nothing: float) -> np.ndarray:
    return normalised_divergence(*js_and_rest(p, q), nothing)
