"""How far two routings of the same tokens agree, token by token.

Shapes: T tokens, K slots of one side, E experts, L layers. `ids_a` (T, K) and `ids_b` (T, K') hold the experts of the
same tokens at the same router, in descending gate weight, -1 an empty slot. Definitions and traps:
docs/methods/agreement.md.
"""

from .gates import gate_distance, selection_margin
from .layers import compounding, first_flip_layer, persistence
from .loads import load_correlation
from .sets import exchange, first_flipped, flipped, overlap_chance, set_counts, set_overlap

__all__ = [
    "compounding",
    "exchange",
    "first_flip_layer",
    "first_flipped",
    "flipped",
    "gate_distance",
    "load_correlation",
    "overlap_chance",
    "persistence",
    "selection_margin",
    "set_counts",
    "set_overlap",
]
