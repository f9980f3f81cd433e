"""Layers as people write them, among those that both traces have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..views.layers import layers_of
from .pairs import Compared, Pairs


def shared_layers(pairs: Pairs, layers: str | None, stream: str) -> list[int]:
    """All shared layers of a stream, or those of a window such as `3:6` or `3,5`. Raises UnknownColumn."""
    known = pairs.layers(None, stream)
    return (
        known
        if layers is None
        else pairs.layers([n for n in layers_of(pairs.a, layers, stream) if n in known], stream)
    )


def compared_layers(
    pairs: Pairs, layers: str | None, stream: str, wanted_N: np.ndarray
) -> Iterator[tuple[int, Compared, np.ndarray]]:
    """Each of these layers with its paired events, and which of those are wanted, bool.

    Args:
        wanted_N: pairs that pass a filter, as `Pairs.wanted` gives them.
    """
    for layer in shared_layers(pairs, layers, stream):
        found = pairs.compared(layer, stream)
        yield layer, found, wanted_N[found.pair_N]
