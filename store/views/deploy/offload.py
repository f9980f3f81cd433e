"""How much of what tokens need lies in fast memory: caches, predictions, and which sequences go together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.consistency import hit_curves
from ....kernels.offload import (
    layer_frequency,
    predictive_cache_run,
    recall,
    regroup,
    same_as_previous_token,
    transition,
    union_sizes,
)
from ....kernels.statistics.jackknife import deal, jackknife_interval
from ...errors import DecisionRefused
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, HALVES, Routers, Split
from ..registry import view
from .halves import halves
from .paths import Paths, paths
from .placement import expert_size

POLICIES = ("lru", "lfu", "belady")
PREDICTORS = ("same_as_previous_token", "layer_frequency", "transition")
LIMIT = "A trace gives hits and bytes, not times."

_SCHEMA = pa.schema(
    [
        *[("policy", pa.string()), ("kind", pa.string()), ("slots", pa.int32()), ("hit_rate", pa.float64())],
        *[
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("loads_per_token", pa.float64()),
            ("bytes", pa.float64()),
        ],
        *[("hits", pa.int64()), ("accesses", pa.int64())],
    ]
)


@view("offload", needs=("events",))
def offload(
    trace: TraceRows,
    *,
    slots: str = "4,8,16",
    expert_bytes: float | None = None,
    split: Split = HALVES,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Hit rates of expert caches with and without prediction, on held-out prompts.

    Args:
        slots: experts of a layer that are held, e.g. 4,8,16; predictive caches share as many over all layers.
        expert_bytes: size of an expert; from the expert sheet where it is not given.
    Returns:
        policy, kind (cache, knows the future, predictor), slots, hit_rate = hits / accesses, low, high (95 %, jackknife
        over groups of prompts), loads_per_token (experts copied; null for caches, where a first access with room counts
        as a hit), bytes (of all slots; null where the size is unknown), hits, accesses.
    """
    sizes = slots_of(slots)
    parts = halves(trace, tokens, split.fit_where, split.seed)
    seen = paths(trace, routers.numbers(trace), routers.stream, tokens, split.seed)
    experts = max(trace.router(layer, routers.stream).num_experts for layer in seen.layers)
    fit, report = seen.of(parts.fit_P), seen.of(parts.report_P)
    size = expert_bytes if expert_bytes is not None else expert_size(trace)
    rows = []
    curves = {name: _curves(report, name, experts) for name in POLICIES}
    predicted = {name: _predicted(fit, report, name, sizes, experts) for name in PREDICTORS}
    for slot in sizes:
        held = min(slot, experts)
        found = []
        for name, (hits_GE, accesses_G) in curves.items():
            kind = "knows the future" if name == "belady" else "cache"
            found.append((name, kind, hits_GE[:, held - 1], accesses_G, None))
        found += [(name, "predictor", *predicted[name][held]) for name in PREDICTORS]
        for policy, kind, hits_G, accesses_G, loads in found:
            base = {"policy": policy, "kind": kind, "slots": slot, "loads_per_token": loads}
            base["bytes"] = None if size is None else held * len(seen.layers) * size
            rows.append(base | _rate(hits_G, accesses_G))
    ours = (
        "A cache starts empty in every sequence, and a first access while there is room is a hit; a predictive cache "
        "holds what was predicted for the token and nothing else."
    )
    said = [parts.note, *([seen.note] if seen.note else []), ours, LIMIT, tokens.note()]
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), said)


def slots_of(text: str) -> list[int]:
    """Sizes such as 4,8,16."""
    try:
        sizes = [int(size) for size in str(text).split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise DecisionRefused(f"slots are {text!r}; write whole numbers from 1 on, such as 4,8,16")
    return sizes


def _groups(report: Paths) -> np.ndarray:
    """(T,) group of each token's prompt, for the jackknife."""
    prompts, at_T = np.unique(report.prompt_T, return_inverse=True)
    return deal(len(prompts))[at_T]


def _curves(report: Paths, policy: Any, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits of caches of every size (G, E) and accesses (G,) of each group of prompts, over all layers."""
    starts = np.r_[report.starts_S, len(report.prompt_T)]
    group_S = _groups(report)[report.starts_S]
    member_GS = (np.arange(group_S.max(initial=0) + 1)[:, None] == group_S).astype(np.float64)
    hits, accesses = np.zeros((len(member_GS), experts)), np.zeros(len(member_GS))
    for layer in range(len(report.layers)):
        curves = hit_curves(report.ids_TLK[:, layer], experts, starts, policy=policy)
        hits += member_GS @ curves.hits
        accesses += member_GS @ np.asarray(curves.accesses)
    return hits, accesses


def _predicted(
    fit: Paths, report: Paths, predictor: str, sizes: list[int], experts: int
) -> dict[int, tuple[np.ndarray, np.ndarray, float]]:
    """Slots of a layer → hits and accesses of each group of prompts, and experts copied for each token."""
    held = sorted({min(size, experts) for size in sizes})
    named = predictions(fit, report, predictor, held[-1], experts)
    if predictor == PREDICTORS[0]:  # the same for any number of slots
        return {slots: _run(named, report, slots) for slots in held}
    # Best first: what fewer slots hold stands at the beginning of what more hold.
    return {slots: _run(named[..., :slots], report, slots) for slots in held}


def _run(predicted: np.ndarray, report: Paths, slots: int) -> tuple[np.ndarray, np.ndarray, float]:
    group_T = _groups(report)
    groups = int(group_T.max(initial=0)) + 1
    hits, accesses, loads = np.zeros(groups), np.zeros(groups), 0
    for group in range(groups):
        mine = group_T == group
        run = predictive_cache_run(predicted[mine], report.ids_TLK[mine], slots * len(report.layers))
        hits[group], loads = run.hits.sum(), loads + run.loads
        accesses[group] = run.hits.sum() + run.misses.sum()
    return hits, accesses, loads / max(1, len(group_T))


def predictions(fit: Paths, report: Paths, predictor: str, named: int, experts: int) -> np.ndarray:
    """(T, L, m) what a predictor expects of the tokens to report on: `named` experts, or those of the last token."""
    make: dict[str, Callable[[], np.ndarray]] = {
        "same_as_previous_token": lambda: same_as_previous_token(report.ids_TLK, report.starts_S),
        "layer_frequency": lambda: layer_frequency(fit.ids_TLK, len(report.ids_TLK), experts, named),
        "transition": lambda: transition(fit.ids_TLK, report.ids_TLK, experts, named),
    }
    return make[predictor]()


def _rate(hits_G: np.ndarray, accesses_G: np.ndarray) -> dict[str, Any]:
    hits, accesses = hits_G.sum(), accesses_G.sum()
    there = (accesses_G > 0) & (accesses_G < accesses)
    without = (hits - hits_G[there]) / (accesses - accesses_G[there])
    found = jackknife_interval(hits / max(accesses, 1), without)
    ends = [None if np.isnan(end) else float(np.clip(end, 0, 1)) for end in (found.low, found.high)]
    return {
        "hit_rate": float(found.point), "low": ends[0], "high": ends[1], "hits": int(hits), "accesses": int(accesses),
    }  # fmt: skip


@view("expert-prediction", needs=("events",))
def expert_prediction(
    trace: TraceRows, *, split: Split = HALVES, routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """Share of a token's experts that three predictors name, each naming as many as the token uses.

    Returns:
        predictor, layer, stream, recall = |predicted ∩ chosen| / |chosen| (mean over held-out tokens that have one
        before them or not), chance = k / E.
    """
    parts = halves(trace, tokens, split.fit_where, split.seed)
    seen = paths(trace, routers.numbers(trace), routers.stream, tokens, split.seed)
    experts = max(trace.router(layer, routers.stream).num_experts for layer in seen.layers)
    fit, report = seen.of(parts.fit_P), seen.of(parts.report_P)
    k = seen.ids_TLK.shape[2]
    rows = []
    for predictor in PREDICTORS:
        share_TL = recall(predictions(fit, report, predictor, k, experts), report.ids_TLK)
        for at, layer in enumerate(seen.layers):
            row = {"predictor": predictor, "layer": layer, "stream": routers.stream}
            chosen = (report.ids_TLK[:, at] >= 0).sum(1).mean() if len(report.ids_TLK) else 0.0
            rows.append(row | {"recall": _mean(share_TL[:, at]), "chance": float(chosen / experts)})
    return with_notes(pa.Table.from_pylist(rows), [parts.note, LIMIT, tokens.note()])


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


@view("regrouping", needs=("events",))
def regrouping(
    trace: TraceRows,
    *,
    batch: int = 8,
    draws: int = 20,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    seed: int = 0,
) -> pa.Table:
    """How many different experts a batch of sequences needs, in order, at random, and regrouped by their experts.

    Args:
        batch: sequences in a batch.
        draws: random orders.
    Returns:
        order (as recorded, random, regrouped), batches, experts_per_batch (over all layers), share (of all experts),
        low, high (of random orders: the central 95 %).
    """
    seen = paths(trace, routers.numbers(trace), routers.stream, tokens, seed)
    experts = max(trace.router(layer, routers.stream).num_experts for layer in seen.layers)
    used = _used(seen, experts)
    rng = np.random.default_rng(seed)
    plain = [list(range(start, min(start + batch, len(used)))) for start in range(0, len(used), batch)]

    def cost(batches: list[list[int]]) -> float:
        return float(np.mean(union_sizes(used, batches))) if batches else 0.0

    random = []
    for _ in range(draws):
        order = rng.permutation(len(used)).tolist()
        random.append(cost([[order[at] for at in group] for group in plain]))
    low, high = np.quantile(random, [0.025, 0.975])
    whole = experts * len(seen.layers)
    rows = [
        {
            "order": name,
            "batches": len(plain),
            "experts_per_batch": value,
            "share": value / whole,
            "low": a,
            "high": b,
        }
        for name, value, a, b in (
            ("as recorded", cost(plain), None, None),
            ("random", float(np.mean(random)), float(low), float(high)),
            ("regrouped", cost(regroup(used, batch)), None, None),
        )
    ]
    known = "Regrouping knows which experts each sequence will use: an engine would have to predict them."
    return with_notes(pa.Table.from_pylist(rows), [known, LIMIT, tokens.note()])


def _used(seen: Paths, experts: int) -> list[set[int]]:
    """For each sequence the experts that it uses, numbered over all layers."""
    number_TLK = np.where(
        seen.ids_TLK >= 0, seen.ids_TLK + experts * np.arange(len(seen.layers))[:, None], -1
    )
    bounds = np.r_[seen.starts_S, len(number_TLK)]
    return [set(np.unique(number_TLK[a:b]).tolist()) - {-1} for a, b in pairwise(bounds)]
