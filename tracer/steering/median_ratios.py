"""The ratio that `prune_ratio` goes by where a profile gives none: the median of a recorded trace.

Online dynamic pruning (MC-MoE, arXiv 2410.06270) drops a token's second expert where g₂ < μ·g₁, with μ the
layer's median of g₂ / g₁ on calibration text.
"""

from __future__ import annotations

import numpy as np

from ...store import Trace


def median_ratios(trace: Trace, *, stream: str = "decoder") -> dict[int, float]:
    """Layer → median over its events of the second gate weight divided by the first.

    Layers whose events have no weights, or fewer than two experts, are left out.
    """
    ratios: dict[int, float] = {}
    for spec in trace.routers:
        if spec.stream != stream:
            continue
        column = trace.events(layer=spec.layer, stream=stream, columns=["weights"])["weights"]
        pairs = [chunk for chunk in (_ratios(part) for part in column.chunks) if len(chunk)]
        if pairs:
            ratios[spec.layer] = float(np.median(np.concatenate(pairs)))
    return ratios


def _ratios(weights) -> np.ndarray:
    """g₂ / g₁ of every event that has both, from a list array."""
    offsets, values = np.asarray(weights.offsets), np.asarray(weights.values).astype(np.float64)
    start = offsets[:-1][np.diff(offsets) >= 2]
    first, second = values[start], values[start + 1]
    return second[first > 0] / first[first > 0]
