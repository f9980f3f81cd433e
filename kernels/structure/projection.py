"""A map of many experts: principal axes of what they respond to."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import as_real


class Projection(NamedTuple):
    """Places of N rows on the axes along which they differ most."""

    places: np.ndarray
    """(N, axes)."""
    explained: np.ndarray
    """(axes,) share of the variance along each."""
    loadings: np.ndarray
    """(axes, F) unit vectors: what each axis is made of."""


def principal_axes(features: ArrayLike, axes: int = 2) -> Projection:
    """Principal component analysis, with signs that do not depend on the machine.

    Args:
        features: (N, F), e.g. log rates of experts over tags.
        axes: how many; those beyond the rank are 0.
    Returns:
        `Projection`. The largest loading of each axis is positive.
    Raises:
        ValueError: not two axes, a NaN.
    Trap:
        Distances on two axes leave out what the others hold: print `explained`.
    """
    rows_NF = as_real(features, "features").astype(np.float64)
    if rows_NF.ndim != 2:
        raise ValueError(f"features must have shape (N, F), got {rows_NF.shape}")
    places = np.zeros((len(rows_NF), axes))
    explained, loadings = np.zeros(axes), np.zeros((axes, rows_NF.shape[1]))
    if rows_NF.size == 0:
        return Projection(places, explained, loadings)
    centred = rows_NF - rows_NF.mean(0)
    value_F, vector_FF = np.linalg.eigh(centred.T @ centred)
    total = value_F.sum()
    for axis, column in enumerate(np.argsort(-value_F, kind="stable")[:axes]):
        if total <= 0 or value_F[column] <= total * 1e-12:
            break
        vector = vector_FF[:, column]
        vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
        places[:, axis], loadings[axis] = centred @ vector, vector
        explained[axis] = value_F[column] / total
    return Projection(places, explained, loadings)
