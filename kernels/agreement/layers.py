"""How flips go through the layers of a model: where the first one is, and whether one leads to the next."""

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import to_numpy


def first_flip_layer(flips: ArrayLike) -> np.ndarray:
    """(T,) index of the first layer that flipped, -1 where none did.

    Args:
        flips: (T, L) bool, layers in the order in which a token passes them.
    Raises:
        ValueError: another shape or type.
    """
    flips_TL = _as_flips(flips)
    if flips_TL.shape[1] == 0:
        return np.full(len(flips_TL), -1)
    return np.where(flips_TL.any(1), flips_TL.argmax(1), -1)


def compounding(flips: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """How likely a layer flips, where an earlier layer flipped and where none did so far.

    Args:
        flips: (T, L) bool, layers in the order in which a token passes them.
    Returns:
        P(flip | an earlier layer flipped) and P(flip | none so far), each (L,); NaN where there is no token to
        condition on, as at layer 0 for the first.
    Raises:
        ValueError: another shape or type.
    Traps:
        Tokens that are easily flipped flip in many layers: a higher first probability is no proof that one flip
        causes the next.
    """
    flips_TL = _as_flips(flips)
    before_TL = np.zeros_like(flips_TL)
    before_TL[:, 1:] = np.logical_or.accumulate(flips_TL, axis=1)[:, :-1]
    return _share(flips_TL, before_TL), _share(flips_TL, ~before_TL)


def persistence(flips: ArrayLike) -> np.ndarray:
    """P(flip | the layer just before flipped), (L,); NaN at layer 0 and where there is no such token.

    Raises:
        ValueError: another shape or type than (T, L) bool.
    """
    flips_TL = _as_flips(flips)
    before_TL = np.zeros_like(flips_TL)
    before_TL[:, 1:] = flips_TL[:, :-1]
    return _share(flips_TL, before_TL)


def _share(flips_TL: np.ndarray, given_TL: np.ndarray) -> np.ndarray:
    given_L = given_TL.sum(0)
    return np.divide(
        (flips_TL & given_TL).sum(0), given_L, out=np.full(len(given_L), np.nan), where=given_L > 0
    )


def _as_flips(flips: ArrayLike) -> np.ndarray:
    flips_TL = to_numpy(flips)
    if flips_TL.ndim != 2 or flips_TL.dtype != bool:
        raise ValueError(f"flips must be boolean of shape (T, L), got {flips_TL.dtype} {flips_TL.shape}")
    return flips_TL
