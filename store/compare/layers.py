"""Layers as people write them, among those that both traces have."""

from __future__ import annotations

from ..views.layers import layers_of
from .pairs import Pairs


def shared_layers(pairs: Pairs, layers: str | None, stream: str) -> list[int]:
    """All shared layers of a stream, or those of a window such as `3:6` or `3,5`. Raises UnknownColumn."""
    known = pairs.layers(None, stream)
    return (
        known
        if layers is None
        else pairs.layers([n for n in layers_of(pairs.a, layers, stream) if n in known], stream)
    )
