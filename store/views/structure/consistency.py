"""Local consistency: can a handful of experts serve the next tokens?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.consistency import independent_window_uses, routing_performance, window_uses_by_group
from ....kernels.counting import load_imbalance
from ....kernels.statistics.jackknife import GROUPS, deal, jackknife_interval
from ...errors import BadArgument
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.sequences import PHASE, starts_of
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ...write.rollups import PHASES
from ..chance import even_share
from ..options import DECODER, Routers
from ..registry import view
from .parts import add

_SCHEMA = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("phase", pa.string()), ("m", pa.int32())],
        *[(name, pa.float64()) for name in ("srp", "low", "high", "independent", "even")],
        *[("srp_by_expert", pa.float64()), ("size_ratio", pa.float64()), ("threshold", pa.int32())],
        *[("max_over_mean", pa.float64()), ("windows", pa.int64())],
        *[("prompts", pa.int64()), ("short", pa.int64()), ("experts", pa.int32()), ("top_k", pa.int32())],
    ]
)


@view("local-consistency", needs=("events",))
def local_consistency(
    trace: TraceRows, *, m: str = "4,16,64,256", routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """How well experts fixed for m tokens cover what the tokens choose (SRP), by layer and phase.

    Args:
        m: lengths of windows, e.g. 16 or 4,16,64.
    Returns:
        layer, stream, phase (prefill, decode: a row for each that occurs), m, srp (one threshold for all experts of
        the layer), low, high (95 %, jackknife over groups of prompts), independent (srp of tokens that choose
        independently with this layer's shares), even (the same with even shares; null where k varies),
        srp_by_expert (a threshold for each expert, mean over the experts in use), size_ratio and threshold of srp,
        max_over_mean of the load, windows, prompts (with a sequence of m tokens), short (prompts without one: they
        are left out), experts, top_k. srp is null where there is no window. See docs/methods/structure.md.
    """
    lengths = whole_numbers(m, "m")
    groups = deal(trace.num_prompts)
    rows = []
    for spec in routers.specs(trace):
        for length, found in _found(trace, spec, lengths, groups, tokens).items():
            rows += _rows(spec, length, found)
    ours = (
        "Windows lie within one prompt and one phase; a token that the filter leaves out ends a sequence. Intervals "
        f"leave out one of at most {GROUPS} groups of prompts at a time."
    )
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), [ours, tokens.note()])


def whole_numbers(text: str, name: str) -> list[int]:
    """`4,16` as numbers, rising. Raises BadArgument."""
    parts = str(text).split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise BadArgument(f"{name} is {text!r}; it takes whole numbers from 1 on, such as 4,16")
    return sorted({int(part) for part in parts})


def by_phase(batch: EventBatch) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each phase that occurs: its number, the sequences' bounds of the whole batch (S + 1,), and which are of it
    (S,) bool."""
    starts = starts_of(batch)
    phase_S = np.searchsorted(PHASES, batch.tokens["phase"][starts[:-1]].astype(str), sorter=_SORTED)
    phase_S = _SORTED[phase_S]
    for phase in np.unique(phase_S):
        yield int(phase), starts, phase_S == phase


_SORTED = np.argsort(PHASES)


def _found(
    trace: TraceRows, spec: RouterSpec, lengths: Sequence[int], groups: np.ndarray, tokens: TokenFilter
) -> dict[int, tuple[Any, ...]]:
    """By window length: phase, windows (G, E, m + 1), [prompts with a window, prompts without], and so on for each
    phase. Lengths that are not remembered are counted in one pass over the events."""

    def key(m: int) -> tuple[Any, ...]:
        return "window uses", spec.layer, spec.stream, m, tokens.key

    found = {m: trace.memo.find(key(m)) for m in lengths}
    missing = [m for m, kept in found.items() if kept is None]
    for m, made in (_tables(trace, spec, missing, groups, tokens) if missing else {}).items():
        trace.memo.put(key(m), made)
        found[m] = made
    return {m: made for m, made in found.items() if made is not None}


def _rows(spec: RouterSpec, m: int, found: tuple[Any, ...]) -> list[dict[str, Any]]:
    rows = []
    for phase, table, prompts in zip(*[iter(found)] * 3, strict=True):
        performance = routing_performance(table.sum(0), "layer")
        single = routing_performance(table.sum(0), "expert").srp
        windows = int(table[:, 0].sum())
        row: dict[str, Any] = {"layer": spec.layer, "stream": spec.stream, "phase": PHASES[phase], "m": m}
        row |= {"windows": windows, "prompts": int(prompts[0]), "short": int(prompts[1])}
        row |= {"experts": spec.num_experts, "top_k": spec.top_k}
        if windows:
            used = single[single > 0]
            uses_E = table.sum(0) @ np.arange(m + 1)
            row |= {"independent": _by_load_alone(uses_E / (windows * m), m)}
            share = even_share(spec, int(uses_E.sum()), windows * m)
            row |= {"even": None if share is None else _by_load_alone(np.full(len(uses_E), share), m)}
            row |= {"srp": float(performance.srp), "size_ratio": float(performance.size_ratio)}
            row |= {
                "threshold": int(performance.threshold),
                "srp_by_expert": float(used.mean()) if len(used) else 0.0,
            }
            row |= {"max_over_mean": load_imbalance(uses_E)["max_over_mean"]}
            row |= _interval(table, float(performance.srp))
        rows.append(row)
    return rows


def _by_load_alone(shares_E: np.ndarray, m: int) -> float:
    return float(routing_performance(independent_window_uses(shares_E, m), "layer").srp)


def _interval(table: np.ndarray, srp: float) -> dict[str, float | None]:
    there = np.flatnonzero(table.any((1, 2)))
    total = table.sum(0)
    found = jackknife_interval(
        srp, [float(routing_performance(total - table[g], "layer").srp) for g in there]
    )
    return finite({"low": max(found.low, 0.0), "high": min(found.high, 1.0)})


def finite(values: dict[str, Any]) -> dict[str, float | None]:
    """NaN as null."""
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _tables(
    trace: TraceRows, spec: RouterSpec, lengths: Sequence[int], groups: np.ndarray, tokens: TokenFilter
) -> dict[int, tuple[Any, ...]]:
    num_groups = int(groups.max(initial=0)) + 1

    def of_part(batch: EventBatch) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        found, ids = {}, batch.padded()
        for phase, starts, of_phase in by_phase(batch):
            prompt_S = batch.prompt_index[starts[:-1]]
            group_S = np.where(of_phase, groups[prompt_S], -1)
            everyone = len(np.unique(prompt_S[of_phase]))
            for m in lengths:
                table = window_uses_by_group(ids, spec.num_experts, m, starts, group_S, num_groups)
                counted = len(np.unique(prompt_S[of_phase & (np.diff(starts) >= m)]))
                found[phase, m] = table, np.array([counted, everyone - counted])
        return found

    sums: dict[tuple[int, int], list[np.ndarray]] = {}
    # A prompt lies in one part, so its windows and it are counted once.
    parts = map_router(trace, of_part, spec.layer, spec.stream, token_columns=PHASE, tokens=tokens)
    for found in parts:
        for place, arrays in found.items():
            sums[place] = add(sums.get(place), arrays)
    phases = sorted({phase for phase, _ in sums})
    return {m: tuple(item for phase in phases for item in (phase, *sums[phase, m])) for m in lengths}
