"""What every importer makes of a file: sequences with their tokens, and events or counts by router."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ImportRefused
from ..schema import RouterKey


@dataclass
class Events:
    """Events of one sequence at one router."""

    position: np.ndarray
    """(N,) rising."""
    experts: np.ndarray
    """Flat, in the order that is kept."""
    lengths: np.ndarray
    """(N,) number of experts of each event."""
    weights: np.ndarray | None = None
    """As experts, or None."""
    probabilities_NE: np.ndarray | None = None
    """Full router probabilities of each event, where they are known."""


@dataclass
class Counts:
    """Sums of one sequence at one router of which no single events are known."""

    tokens: int
    """Tokens that passed the router; where nobody knows, the choices (see `Imported.notes`)."""
    count_E: np.ndarray
    weight_sum_E: np.ndarray | None = None


@dataclass
class ImportedSequence:
    """One sequence with all that is known of it."""

    prompt: dict[str, Any]
    """Values by column of `schema.PROMPTS`; `tags` is a dict."""
    tokens: dict[str, list[Any]]
    """Columns of `schema.TOKENS` without `prompt`; `position` rising."""
    events: dict[RouterKey, Events] = field(default_factory=dict)
    counts: dict[RouterKey, Counts] = field(default_factory=dict)


def grid_events(
    ids_NK: np.ndarray, weights_NK: np.ndarray | None = None, position_N: np.ndarray | None = None
) -> Events:
    """Events from an array with -1 in empty slots; tokens without any expert have no event.

    Args:
        position_N: positions of the rows; without it 0, 1, 2, ...
    """
    filled = ids_NK >= 0
    lengths = filled.sum(axis=1)
    used = np.flatnonzero(lengths)
    return Events(
        position=(used if position_N is None else position_N[used]).astype(np.int64),
        experts=ids_NK[filled],
        lengths=lengths[used],
        weights=None if weights_NK is None else weights_NK[filled],
    )


def storable(text: Any, where: str) -> str:
    """Text that can be stored. Raises ImportRefused for broken Unicode."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        raise ImportRefused(f"{where}: the text is not valid Unicode") from None
    return str(text)
