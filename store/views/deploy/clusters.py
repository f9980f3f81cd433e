"""Clusters of experts whose outputs are alike, from the expert sheet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.likeness import expert_clusters, linkage, similarity_within
from ...errors import DecisionRefused
from ...expert_sheet import expert_sheet
from ...notes import with_notes
from ...read.trace_rows import TraceRows
from ..layers import layers_of
from ..options import DECODER, Routers
from ..registry import view

NOTE = (
    "Similarity is the mean cosine of outputs on shared probe tokens. Merging by frequency equals the untruncated "
    "subspace merge of arXiv 2506.23266; what it costs is measured on the merged model, not here."
)


@view("likeness")
def likeness(
    trace: TraceRows, *, keep: float = 0.5, draws: int = 50, routers: Routers = DECODER, seed: int = 0
) -> pa.Table:
    """Clusters of experts with like outputs: what a merge to fewer experts would put together.

    Args:
        keep: clusters as a share of the experts of a layer.
        draws: random clusters of the same sizes, for comparison.
    Returns:
        layer, stream, expert, cluster, within (mean similarity of pairs in one cluster of the layer), random (the same
        of random clusters of the same sizes), mean (of all pairs), similarity (the expert's row: a list).
    """
    rng = np.random.default_rng(seed)
    out: list[dict[str, Any]] = []
    for layer, near in _similarities(trace, routers.layers, routers.stream).items():
        cluster = expert_clusters(near, max(1, round(keep * len(near))))
        random = np.mean([similarity_within(near, rng.permutation(cluster)) for _ in range(draws)])
        facts = {"within": similarity_within(near, cluster), "random": float(random)}
        facts["mean"] = similarity_within(near, np.zeros(len(near), np.int64))
        for expert, number in enumerate(cluster.tolist()):
            key = {"layer": layer, "stream": routers.stream, "expert": expert, "cluster": number}
            out.append(key | facts | {"similarity": near[expert].tolist()})
    return with_notes(pa.Table.from_pylist(out), [NOTE])


@view("merge-tree")
def merge_tree(trace: TraceRows, *, routers: Routers = DECODER) -> pa.Table:
    """The tree of experts with like outputs: which join first, and at what similarity (average linkage).

    Returns:
        layer, stream, step (from 0), a and b (what joins: an expert, or E + the step that made it), similarity (mean
        cosine between what joins), experts (how many are together then).
    """
    out: list[dict[str, Any]] = []
    for layer, near in _similarities(trace, routers.layers, routers.stream).items():
        for step, (a, b, distance, size) in enumerate(linkage(near).tolist() if len(near) > 1 else []):
            key = {"layer": layer, "stream": routers.stream, "step": step, "a": int(a), "b": int(b)}
            out.append(key | {"similarity": 1 - distance, "experts": int(size)})
    return with_notes(pa.Table.from_pylist(out), [NOTE])


def _similarities(trace: TraceRows, layers: str | None, stream: str) -> dict[int, np.ndarray]:
    """Layer → (E, E) similarity of outputs. Raises DecisionRefused where the expert sheet has none."""
    sheet = expert_sheet(trace)
    rows = (
        []
        if sheet is None
        else [r for r in sheet.to_pylist() if r["stream"] == stream and r["output_similarity"]]
    )
    if not rows:
        raise DecisionRefused(
            "the trace has no similarity of outputs; run `moescope weigh MODEL --trace TRACE --what similarity`"
        )
    found: dict[int, np.ndarray] = {}
    for layer in layers_of(trace, layers, stream):
        mine = sorted((row for row in rows if row["layer"] == layer), key=lambda row: row["expert"])
        if mine:
            found[layer] = np.array([row["output_similarity"] for row in mine])
    if not found:
        raise DecisionRefused("the expert sheet has none of these layers")
    return found
