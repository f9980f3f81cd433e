"""Paths over a window of layers with a handful of experts told apart in each: what parallel categories show."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ....kernels.structure import path_counts
from ...amount import amount
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view
from .paths import aligned_firsts, checked_layers, listed

OTHERS = "others"

_SCHEMA = pa.schema(
    [
        *[("path", pa.string()), ("experts", pa.list_(pa.int32())), ("layers", pa.list_(pa.int32()))],
        *[
            ("count", pa.int64()),
            ("share", pa.float64()),
            ("expected", pa.float64()),
            ("ratio", pa.float64()),
        ],
    ]
)


@view("path-groups", needs=("events",))
def path_groups(
    trace: TraceRows,
    *,
    layers: str,
    most: int = 6,
    limit: int = 120,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Paths of tokens through a few layers, by first experts, with only the most used experts of each layer told apart.

    Args:
        layers: a window such as 3:6 (both ends in) or 3,5.
        most: experts of each layer that are told apart; all others of a layer are one group.
        limit: how many paths, most frequent first; 0 for all.
    Returns:
        path (as in 5 > others > 2), experts (one a layer, null for the others), layers, count (tokens that take it),
        share (of all tokens that passed these layers), expected (tokens that would, if layers chose independently with
        the shares that they have), ratio = count / expected. Tokens that miss a layer are left out.
    """
    chosen = checked_layers(trace, layers, stream)
    first_LN, _ = aligned_firsts(trace, chosen, stream, tokens)
    grouped_LN = np.stack([_most_used(first_N, most) for first_N in first_LN])
    found = path_counts(grouped_LN)
    total = int(found.counts.sum())
    records = []
    for path, count, expected in list(zip(*found, strict=True))[: limit or None]:
        experts = [None if expert == _REST else int(expert) for expert in path]
        records.append(
            {
                "path": " > ".join(OTHERS if expert is None else str(expert) for expert in experts),
                "experts": experts,
                "layers": chosen,
                "count": int(count),
                "share": count / total,
                "expected": float(expected),
                "ratio": float(count / expected),
            }
        )
    shown = sum(record["count"] for record in records)
    note = (
        f"{len(records):,} of {amount(len(found.counts), 'path')} over layers {listed(chosen)}; {shown:,} of {total:,} "
        "tokens take them."
    )
    return with_notes(pa.Table.from_pylist(records, schema=_SCHEMA), [note, tokens.note()])


_REST = np.iinfo(np.int32).max


def _most_used(first_N: np.ndarray, most: int) -> np.ndarray:
    """Experts of one layer, all but the most used ones as one number; tokens without an expert stay -1."""
    uses_E = np.bincount(first_N[first_N >= 0])
    kept = np.argsort(-uses_E, kind="stable")[:most]
    return np.where((first_N < 0) | np.isin(first_N, kept), first_N, _REST)
