"""How far two routings agree, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...kernels.agreement import load_correlation, overlap_chance
from ...kernels.statistics.bootstrap import FEWEST_UNITS, Interval, bootstrap_interval
from ..notes import with_notes
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..views.options import DECODER, INTERVALS, Intervals, Routers
from .layers import compared_layers
from .pairs import Compared, Pairs

MEASURES = ("flip_rate", "first_flip", "overlap", "gate_distance", "load_correlation")


def agreement(
    pairs: Pairs,
    *,
    by: str | None = None,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    intervals: Intervals = INTERVALS,
) -> pa.Table:
    """How far two routings agree, layer by layer.

    Args:
        by: a column of A's prompts (language, group, ...), a tag, or phase: a row for each of its values.
    Returns:
        layer, stream, [by], tokens, prompts, flip_rate (share of tokens with another set of experts), first_flip
        (another first expert), overlap (mean set overlap), chance (overlap of even, independent choices), gate_distance
        (mean total variation of gate weights; null without them), load_correlation (Spearman of the experts' loads),
        each measure with its 95 % interval over prompts (_low, _high).
    """
    groups, wanted_N = pairs.groups(by), pairs.wanted(tokens)
    kinds = [("layer", pa.int32()), ("stream", pa.string())]
    kinds += [(by, pa.string())] if by is not None else []
    kinds += [("tokens", pa.int64()), ("prompts", pa.int64())]
    for name in MEASURES:
        kinds += [(name, pa.float64()), (f"{name}_low", pa.float64()), (f"{name}_high", pa.float64())]
        kinds += [("chance", pa.float64())] if name == "overlap" else []
    rows = []
    for layer, found, kept in compared_layers(pairs, routers, wanted_N):
        for number, name in enumerate(groups.names):
            chosen = np.flatnonzero(kept & (groups.group_P[found.pair_N] == number))
            if len(chosen):
                row: dict[str, Any] = {"layer": layer, "stream": routers.stream}
                row |= {by: name} if by is not None else {}
                rows.append(row | _measured(found, chosen, intervals))
    return with_notes(pa.Table.from_pylist(rows, schema=pa.schema(kinds)), [tokens.note()])


def _measured(found: Compared, chosen: np.ndarray, drawn: Intervals) -> dict[str, Any]:
    prompt_N = np.unique(found.prompt_N[chosen], return_inverse=True)[1]
    prompts = int(prompt_N.max()) + 1
    columns = {"flip_rate": found.flipped_N, "first_flip": found.first_N, "overlap": found.overlap_N}
    if found.distance_N is not None:
        columns["gate_distance"] = found.distance_N
    row: dict[str, Any] = {"tokens": len(chosen), "prompts": prompts}
    values_NM = np.stack([values_N[chosen].astype(np.float64) for values_N in columns.values()], axis=1)
    intervals = means_over_prompts(values_NM, prompt_N, prompts, drawn)
    for name, interval in zip(columns, intervals, strict=True):
        row |= ends(name, interval)
    experts = found.spec.num_experts
    counts = [_counts(ids[chosen], prompt_N, prompts, experts) for ids in (found.ids_a_NK, found.ids_b_NJ)]
    row |= ends("load_correlation", load_correlation(*counts, resamples=drawn.resamples, seed=drawn.seed))
    k_a, k_b = (float((ids[chosen] >= 0).sum(1).mean()) for ids in (found.ids_a_NK, found.ids_b_NJ))
    return row | {"chance": overlap_chance(experts, k_a, k_b)}


def means_over_prompts(
    values_NM: np.ndarray, prompt_N: np.ndarray, prompts: int, drawn: Intervals
) -> list[Interval | None]:
    """The mean of each column over tokens, with an interval over prompts; NaN values are left out, and a column without
    any other has no mean."""
    known_NM = ~np.isnan(values_NM)
    tokens_PM, sums_PM = (
        np.stack([np.bincount(prompt_N, column, prompts) for column in table.T], axis=1)
        for table in (known_NM, np.where(known_NM, values_NM, 0))
    )
    means_PM = np.divide(sums_PM, tokens_PM, out=np.zeros_like(sums_PM), where=tokens_PM > 0)
    found = bootstrap_interval(means_PM, weights=tokens_PM, resamples=drawn.resamples, seed=drawn.seed)
    columns = zip(found.point, found.low, found.high, found.units, strict=True)
    intervals = [Interval(point, low, high, units) for point, low, high, units in columns]
    some_M = np.atleast_1d(known_NM.any(axis=0))
    return [one if some else None for one, some in zip(intervals, some_M, strict=True)]


def mean_over_prompts(
    values_N: np.ndarray, prompt_N: np.ndarray, prompts: int, drawn: Intervals
) -> Interval | None:
    """The same for one column."""
    return means_over_prompts(values_N.astype(np.float64)[:, None], prompt_N, prompts, drawn)[0]


def ends(name: str, found: Interval | None) -> dict[str, float | None]:
    """The point and both ends of an interval as columns; NaN as null, and so the ends where units are too few."""
    values = (None,) * 3 if found is None else (found.point, found.low, found.high)
    if found is not None and found.units < FEWEST_UNITS:
        values = found.point, None, None
    names = (name, f"{name}_low", f"{name}_high")
    return {
        key: None if value is None or np.isnan(value) else float(value)
        for key, value in zip(names, values, strict=True)
    }


def _counts(ids_NK: np.ndarray, prompt_N: np.ndarray, prompts: int, experts: int) -> np.ndarray:
    filled = ids_NK >= 0
    keys = (prompt_N[:, None] * experts + ids_NK)[filled]
    return np.bincount(keys, minlength=prompts * experts).reshape(prompts, experts)
