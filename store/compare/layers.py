"""Layers as people write them, among those that both traces have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..views.options import Routers
from .pairs import Compared, Pairs


def shared_layers(pairs: Pairs, routers: Routers) -> list[int]:
    """The chosen layers that both traces have. Raises UnknownColumn."""
    known = pairs.layers(None, routers.stream)
    if routers.layers is None:
        return known
    return pairs.layers([n for n in routers.numbers(pairs.a) if n in known], routers.stream)


def compared_layers(
    pairs: Pairs, routers: Routers, wanted_N: np.ndarray
) -> Iterator[tuple[int, Compared, np.ndarray]]:
    """Each of these layers with its paired events, and which of those are wanted, bool.

    Args:
        wanted_N: pairs that pass a filter, as `Pairs.wanted` gives them.
    """
    for layer in shared_layers(pairs, routers):
        found = pairs.compared(layer, routers.stream)
        yield layer, found, wanted_N[found.pair_N]
