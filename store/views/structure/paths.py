"""The ways of tokens through the layers: whole paths, flows between layers, repeats from token to token."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.counting import transitions
from ....kernels.counting.locality import repeated_pairs
from ....kernels.statistics.bootstrap import interval_of_enough
from ....kernels.structure import path_counts, strongest_flows
from ...amount import amount
from ...errors import StoreError
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.sequences import PHASE, firsts_of, starts_of
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ...write.rollups import token_key
from ..layers import layers_of
from ..options import DECODER, INTERVALS, Routers
from ..registry import view
from .parts import summed

MOST_LAYERS = 16

_PATHS = pa.schema(
    [
        *[("path", pa.string()), ("experts", pa.list_(pa.int32())), ("count", pa.int64())],
        *[("share", pa.float64()), ("expected", pa.float64()), ("ratio", pa.float64())],
        ("prompts", pa.int64()),
    ]
)
_FLOWS = pa.schema(
    [
        *[("from_layer", pa.int32()), ("to_layer", pa.int32()), ("from_expert", pa.int32())],
        *[("to_expert", pa.int32()), ("tokens", pa.int64()), ("share", pa.float64())],
        *[("expected", pa.float64()), ("lift", pa.float64())],
    ]
)
_REPEATS = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("depth", pa.int32()), ("repeats", pa.float64())],
        *[("low", pa.float64()), ("high", pa.float64()), ("even", pa.float64())],
        *[("independent", pa.float64()), ("pairs", pa.int64()), ("prompts", pa.int64())],
    ]
)


@view("paths", needs=("events",))
def paths(
    trace: TraceRows,
    *,
    layers: str,
    limit: int = 50,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Whole paths of tokens through a few layers, by first experts, beside what independent layers would give.

    Args:
        layers: a window such as 3:6 (both ends in) or 3,5.
        limit: how many paths, most frequent first; 0 for all.
    Returns:
        path (as in 5 > 17 > 2), experts (one a layer), count (tokens that take it), share, expected (tokens that would,
        if layers chose independently with the shares that they have), ratio = count / expected, prompts (that hold such
        a token). Tokens that miss a layer are left out.
    """
    chosen = checked_layers(trace, layers, stream)
    first_LN, prompt_N = aligned_firsts(trace, chosen, stream, tokens)
    found = path_counts(first_LN)
    total = int(found.counts.sum())
    records = []
    for path, count, expected in list(zip(*found, strict=True))[: limit or None]:
        taken = (first_LN == path[:, None]).all(0)
        records.append(
            {
                "path": " > ".join(map(str, path)),
                "experts": path.tolist(),
                "count": int(count),
                "share": count / total,
                "expected": float(expected),
                "ratio": float(count / expected),
                "prompts": len(np.unique(prompt_N[taken])),
            }
        )
    note = f"{amount(len(found.counts), 'different path')} of {amount(total, 'token')} over layers {listed(chosen)}."
    return with_notes(pa.Table.from_pylist(records, schema=_PATHS), [note, tokens.note()])


@view("flows", needs=("events",))
def flows(
    trace: TraceRows,
    *,
    layers: str,
    limit: int = 24,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """The strongest flows of tokens between the layers of a window, by first experts: what a Sankey picture shows.

    Args:
        layers: a window such as 3:6 (both ends in) or 3,5,9.
        limit: how many flows between two neighbouring layers of the window; 0 for all.
    Returns:
        from_layer, to_layer, from_expert, to_expert (both null for the rest of a pair of layers), tokens, share (of the
        pair's tokens), expected (tokens if the two layers chose independently), lift = tokens / expected. The tokens of
        a pair of layers sum to all that passed both.
    """
    chosen = checked_layers(trace, layers, stream)
    if len(chosen) < 2:
        raise StoreError(f"flows need two layers or more, got {listed(chosen)}")
    first_LN, _ = aligned_firsts(trace, chosen, stream, tokens)
    sizes = [trace.router(layer, stream).num_experts for layer in chosen]
    records = []
    for at in range(len(chosen) - 1):
        matrix = transitions(first_LN[at], first_LN[at + 1], sizes[at], sizes[at + 1])
        records += _strongest(matrix, chosen[at], chosen[at + 1], limit or matrix.size)
    return with_notes(pa.Table.from_pylist(records, schema=_FLOWS), [tokens.note()])


def _strongest(matrix: np.ndarray, layer: int, target: int, limit: int) -> list[dict[str, Any]]:
    found, rest = strongest_flows(matrix, limit)
    total = int(matrix.sum())
    leaving, arriving = matrix.sum(1), matrix.sum(0)
    ends = {"from_layer": layer, "to_layer": target}
    records = []
    for a, b, tokens in found.tolist():
        expected = float(leaving[a]) * float(arriving[b]) / total
        records.append(
            {
                **ends,
                "from_expert": a,
                "to_expert": b,
                "tokens": tokens,
                "share": tokens / total,
                "expected": expected,
                "lift": tokens / expected,
            }
        )
    if rest:
        records.append({**ends, "tokens": int(rest), "share": rest / total})
    return records


@view("repeats", needs=("events",))
def repeats(
    trace: TraceRows, *, depth: int = 1, routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """How often two consecutive tokens share one of their first experts, beside chance.

    Args:
        depth: how many of the first experts count, 1 to k (Mixtral's table 5 has 1 and 2).
        layers: a window such as 3:6 (both ends in) or 3,5; all by default.
    Returns:
        layer, stream, depth, repeats (share of pairs of consecutive tokens), low, high (95 % bootstrap over prompts),
        even (chance of even, independent routing: 1 − C(E − d, d) / C(E, d), and where tokens have fewer than d experts
        the mean over pairs of 1 − C(E − a, b) / C(E, b)), independent (chance of independent tokens with this layer's
        own shares; for depth 1, else null), pairs, prompts (with a pair).
    """
    records = []
    for spec in routers.specs(trace):
        if not 1 <= depth <= (spec.top_k or spec.num_experts):
            raise StoreError(
                f"depth is {depth}; layer {spec.layer} chooses {spec.top_k or 'up to E'} experts a token"
            )
        records += _repeats(trace, spec, depth, tokens)
    notes = [INTERVALS.note("prompts"), tokens.note()]
    return with_notes(pa.Table.from_pylist(records, schema=_REPEATS), notes)


def _repeats(trace: TraceRows, spec: RouterSpec, depth: int, tokens: TokenFilter) -> list[dict[str, Any]]:
    def of_part(batch: EventBatch) -> tuple[np.ndarray, ...]:
        ids = batch.padded()
        if ids.shape[1] < depth:
            ids = np.pad(ids.astype(np.int64), ((0, 0), (0, depth - ids.shape[1])), constant_values=-1)
        # Row n of the pairs is tokens n and n + 1: those that cross a prompt or phase are no consecutive tokens.
        same_sequence = np.ones(max(len(ids) - 1, 0), bool)
        same_sequence[starts_of(batch)[1:-1] - 1] = False
        prompt = batch.prompt_index[1:][same_sequence]
        repeated = np.bincount(prompt, repeated_pairs(ids, depth)[same_sequence], trace.num_prompts)
        firsts = firsts_of(batch)
        uses_E = np.bincount(firsts[firsts >= 0], minlength=spec.num_experts)
        # Where k varies a token may have fewer experts than `depth`: how many each side of a pair has.
        size_N = np.minimum((ids >= 0).sum(1), depth)
        sizes = (size_N[:-1] * (depth + 1) + size_N[1:])[same_sequence]
        pairs_DD = np.bincount(sizes, minlength=(depth + 1) ** 2).reshape(depth + 1, depth + 1)
        return repeated, np.bincount(prompt, minlength=trace.num_prompts), uses_E, pairs_DD

    sums = summed(map_router(trace, of_part, spec.layer, spec.stream, token_columns=PHASE, tokens=tokens))
    if not sums:
        return []
    repeated_P, pairs_P, uses_E, pairs_DD = sums
    held = pairs_P > 0
    if not held.any():
        return []
    found = interval_of_enough(
        repeated_P[held] / pairs_P[held], weights=pairs_P[held], resamples=INTERVALS.resamples
    )
    share_E = uses_E / max(uses_E.sum(), 1)
    return [
        {
            "layer": spec.layer,
            "stream": spec.stream,
            "depth": depth,
            "repeats": float(found.point),
            "low": float(found.low) if np.isfinite(found.low) else None,
            "high": float(found.high) if np.isfinite(found.high) else None,
            "even": _even(spec.num_experts, pairs_DD),
            "independent": float(share_E @ share_E) if depth == 1 else None,
            "pairs": int(pairs_P.sum()),
            "prompts": int(held.sum()),
        }
    ]


def _even(num_experts: int, pairs_DD: np.ndarray) -> float:
    """Chance that two tokens share an expert in even, independent routing, over pairs (D, D) of tokens with so many
    experts each."""
    before, after = np.nonzero(pairs_DD)
    apart = [
        comb(num_experts - a, b) / comb(num_experts, b)
        for a, b in zip(before.tolist(), after.tolist(), strict=True)
    ]
    return float(1.0 - np.average(apart, weights=pairs_DD[before, after]))


def checked_layers(trace: TraceRows, layers: str, stream: str) -> list[int]:
    chosen = layers_of(trace, layers, stream)
    if len(chosen) > MOST_LAYERS:
        raise StoreError(f"{len(chosen)} layers are too many for paths: name at most {MOST_LAYERS}")
    return chosen


def listed(layers: list[int]) -> str:
    return ", ".join(map(str, layers))


def aligned_firsts(
    trace: TraceRows, layers: list[int], stream: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray]:
    """First experts (L, N) of the tokens that passed all these layers, and their prompts (N,)."""
    found = [
        trace.memo.get(
            ("first experts", layer, stream, "aligned", tokens.key),
            lambda layer=layer: _firsts(trace, layer, stream, tokens),
        )
        for layer in layers
    ]
    common = found[0][0]
    for key, _, _ in found[1:]:
        if not np.array_equal(common, key):
            common = np.intersect1d(common, key, assume_unique=True)
    rows = [slice(None) if len(key) == len(common) else np.searchsorted(key, common) for key, _, _ in found]
    firsts = np.stack([first[row] for (_, first, _), row in zip(found, rows, strict=True)])
    return firsts, found[0][2][rows[0]]


def _firsts(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prompt, position) as one rising number, first expert, row of the prompt; (N,) each."""

    def of_part(batch: EventBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        key = token_key(batch.prompt_N, batch.position_N)
        return key, firsts_of(batch).astype(np.int32), batch.prompt_index

    parts = list(map_router(trace, of_part, layer, stream, tokens=tokens))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    key, first, prompt = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(key, kind="stable")
    return key[order], first[order], prompt[order]
