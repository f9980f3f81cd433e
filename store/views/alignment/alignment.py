"""Is a text routed as its translation is? Divergence from a pivot language, by layer and between languages.

Source: Bandarkar et al. 2025, arXiv 2510.04694; docs/methods/alignment.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.alignment import Interval, clustering_order
from ....kernels.statistics.bootstrap import interval_of_enough
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..layers import layers_of
from ..options import DECODER, INTERVALS, Intervals, Routers
from ..registry import view
from .divergences import all_pairs, from_pivot
from .units import UNITS, parallel_units


@view("alignment")
def alignment(
    trace: TraceRows,
    *,
    pivot: str = "en",
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """How far the routing of each language departs from the pivot's, layer by layer.

    Args:
        pivot: the language that the others are compared with.
    Returns:
        language, layer, stream, divergence (mean over the parallel pairs, 0..1), low, high (95 % bootstrap
        interval over units), units (pairs), experts, top_k.
    """
    units = parallel_units(trace, pivot, tokens.where)
    languages = [units.languages[n] for n in units.others]
    chosen = routers.numbers(trace)
    found = from_pivot(trace, units, chosen, routers.stream, tokens)
    divergence_ULM, paired_ULM = (np.stack(arrays, axis=1) for arrays in zip(*found, strict=True))
    mean = mean_interval(divergence_ULM, paired_ULM, intervals)
    rows: list[dict[str, Any]] = []
    for number, layer in enumerate(chosen):
        spec = trace.router(layer, routers.stream)
        for m, language in enumerate(languages):
            row = {"language": language, "layer": layer, "stream": routers.stream}
            row |= _interval("divergence", mean, (number, m))
            rows.append(row | {"experts": spec.num_experts, "top_k": spec.top_k})
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    return with_notes(table, [intervals.note(UNITS), *units.notes, tokens.note()])


_SCHEMA = pa.schema(
    [
        ("language", pa.string()),
        ("layer", pa.int32()),
        ("stream", pa.string()),
        ("divergence", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("units", pa.int64()),
        ("experts", pa.int32()),
        ("top_k", pa.int32()),
    ]
)


def mean_interval(values: np.ndarray, there: np.ndarray, drawn: Intervals) -> Interval:
    """Mean over the first axis of the values that are there, with its bootstrap interval."""
    weights = None if there.all() else there
    return interval_of_enough(values, weights=weights, resamples=drawn.resamples, seed=drawn.seed)


def _interval(name: str, interval: Any, at: Any) -> dict[str, Any]:
    """A cell of an `Interval` as columns; unknown is null."""
    units = int(interval.units[at])
    low, high = float(interval.low[at]), float(interval.high[at])
    return {
        name: float(interval.point[at]) if units else None,
        "low": None if np.isnan(low) else low,
        "high": None if np.isnan(high) else high,
        "units": units,
    }


@view("alignment-matrix")
def alignment_matrix(
    trace: TraceRows,
    *,
    layer: int | None = None,
    routers: Routers = DECODER,
    pivot: str = "en",
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """Divergence between every two languages, at a layer or averaged over a window of layers.

    Args:
        layer: one layer, instead of `layers`.
        pivot: units without a text in this language are left out.
    Returns:
        language_a, language_b (both orders, and each with itself: 0), divergence (mean over shared units of
        the mean over layers), low, high, units, order_a, order_b (places in an order that puts similar
        languages side by side).
    """
    units = parallel_units(trace, pivot, tokens.where)
    stream = routers.stream
    chosen = routers.numbers(trace) if layer is None else layers_of(trace, layer, stream)
    one, other = np.triu_indices(len(units.languages), 1)
    divergence_UQ = np.zeros((units.shape[0], len(one)))
    there_UN = np.ones(units.shape, bool)
    for of_layer_UQ, in_layer_UN in all_pairs(trace, units, chosen, stream, tokens):
        divergence_UQ += of_layer_UQ
        there_UN &= in_layer_UN
    divergence_UQ /= len(chosen)
    mean = mean_interval(divergence_UQ, there_UN[:, one] & there_UN[:, other], intervals)
    place = _places(len(units.languages), one, other, mean.point, mean.units)
    rows = []
    cell = {(int(a), int(b)): pair for pair, (a, b) in enumerate(zip(one, other, strict=True))}
    for a, first in enumerate(units.languages):
        for b, second in enumerate(units.languages):
            row: dict[str, Any] = {"language_a": first, "language_b": second}
            if a == b:
                row |= {"divergence": 0.0, "low": 0.0, "high": 0.0, "units": int(there_UN[:, a].sum())}
            else:
                row |= _interval("divergence", mean, cell[min(a, b), max(a, b)])
            rows.append(row | {"order_a": int(place[a]), "order_b": int(place[b])})
    about = f"Layers {', '.join(map(str, chosen))}, stream {stream}."
    return with_notes(pa.Table.from_pylist(rows), [about, intervals.note(UNITS), *units.notes, tokens.note()])


def _places(
    languages: int, one: np.ndarray, other: np.ndarray, divergence_Q: np.ndarray, units_Q: np.ndarray
) -> np.ndarray:
    """(N,) place of each language in the clustering order."""
    distance_NN = np.zeros((languages, languages))
    known_Q = np.where(units_Q > 0, divergence_Q, np.nan)
    distance_NN[one, other] = distance_NN[other, one] = known_Q
    place = np.empty(languages, np.int64)
    place[clustering_order(distance_NN)] = np.arange(languages)
    return place
