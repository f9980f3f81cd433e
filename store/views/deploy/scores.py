"""Scores of experts side by side, how far they agree, and which experts each domain would keep.

Usage comes from the trace; what outputs say comes from captured norms, or else from the expert sheet.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.importance import easy_ep_score, reap_score
from ...errors import DecisionRefused
from ...expert_sheet import expert_sheet
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..options import DECODER, Routers
from ..registry import view
from .halves import halves

SCORES = ("frequency", "gate", "reap", "easy_ep")
NO_OUTPUTS = (
    "REAP and EASY-EP need outputs: run `moescope weigh MODEL --trace TRACE`, or trace with "
    "`--capture output_norm,similarity`."
)
LIMIT = (
    "A score is a reason to look: measure the loss of the pruned model beside random and frequency pruning."
)


def scores_of(
    trace: TraceRows, layer: int, stream: str, tokens: TokenFilter, prompts_P: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The scores that the trace and its sheet can give of one layer's experts, (E,) each.

    Args:
        prompts_P: prompts to count only; scores from the sheet, which is of all prompts, are then left out.
    """
    rows = trace.rollup_arrays(layer, stream, tokens=tokens)
    mine = slice(None) if prompts_P is None else prompts_P[rows.prompt_index]
    count_E = rows.count[mine].sum(0)
    found: dict[str, np.ndarray] = {"frequency": count_E / max(1, count_E.sum())}
    if rows.weight_sum is not None:
        found["gate"] = rows.weight_sum[mine].sum(0)
    captured = set(trace.manifest.capture)
    if {"weights", "output_norm"} <= captured and trace.num_events:
        found |= _of_events(trace, layer, stream, tokens, "similarity" in captured, prompts_P)
    elif prompts_P is None:
        found |= _of_sheet(trace, layer, stream)
    return found


def _of_sheet(trace: TraceRows, layer: int, stream: str) -> dict[str, np.ndarray]:
    sheet = trace.memo.get("expert sheet rows", lambda: (_sheet_rows(trace),))[0]
    rows = sorted(
        (r for r in sheet if (r["layer"], r["stream"]) == (layer, stream)), key=lambda r: r["expert"]
    )
    return {
        name: np.array([row[name] for row in rows], np.float64)
        for name in ("reap", "easy_ep")
        if rows and all(row[name] is not None for row in rows)
    }


def _sheet_rows(trace: TraceRows) -> list[dict[str, Any]]:
    sheet = expert_sheet(trace)
    return [] if sheet is None else sheet.select(["layer", "stream", "expert", "reap", "easy_ep"]).to_pylist()


def _of_events(
    trace: TraceRows,
    layer: int,
    stream: str,
    tokens: TokenFilter,
    changes: bool,
    prompts_P: np.ndarray | None,
) -> dict[str, np.ndarray]:
    experts = trace.router(layer, stream).num_experts
    columns = ("weights", "output_norm", *(("similarity",) if changes else ()))

    def of_part(batch: EventBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if batch.offsets is not None:
            raise DecisionRefused("scores from outputs need the same number of experts for every token")
        kept = slice(None) if prompts_P is None else prompts_P[batch.prompt_index]
        ids, gates, norms = batch.experts[kept], batch.weights[kept], batch.columns["output_norm"][kept]
        uses = np.bincount(ids.ravel(), minlength=experts)
        easy = np.zeros(experts)
        if changes:
            easy = easy_ep_score(ids, gates, norms, 1 - batch.columns["similarity"][kept], experts)
        return uses, reap_score(ids, gates, norms, experts) * uses, easy

    parts = list(map_router(trace, of_part, layer, stream, columns=columns, tokens=tokens))
    uses, sums, easy = (np.sum([part[at] for part in parts], axis=0) for at in range(3))
    found = {"reap": sums / np.maximum(uses, 1)}
    return found | ({"easy_ep": easy} if changes else {})


@view("expert-scores", needs=("token_numbers",))
def expert_scores(
    trace: TraceRows, *, routers: Routers = DECODER, tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """Scores of experts for pruning, side by side.

    Returns:
        layer, stream, expert, frequency (share of choices), gate (sum of gate weights), reap (mean gate × output norm),
        easy_ep (the same summed over tokens, × how far the token moves); null where the trace and its expert sheet do
        not give it. See docs/methods/decisions.md.
    """
    pieces, missing = [], False
    kinds = [("layer", pa.int32()), ("stream", pa.string()), ("expert", pa.int32())]
    kinds += [(name, pa.float64()) for name in SCORES]
    for layer in routers.numbers(trace):
        found = scores_of(trace, layer, routers.stream, tokens)
        experts = len(found["frequency"])
        missing |= "reap" not in found
        columns: dict[str, Any] = {
            "layer": np.full(experts, layer),
            "stream": pa.repeat(pa.scalar(routers.stream), experts),
        }
        columns |= {"expert": np.arange(experts)}
        columns |= {name: found.get(name, pa.nulls(experts, pa.float64())) for name in SCORES}
        pieces.append(
            pa.table([pa.array(columns[name], kind) for name, kind in kinds], schema=pa.schema(kinds))
        )
    notes = [LIMIT, *([NO_OUTPUTS] if missing else []), tokens.note()]
    return with_notes(pa.concat_tables(pieces), notes)


@view("score-agreement", needs=("token_numbers",))
def score_agreement(
    trace: TraceRows,
    *,
    keep: float = 0.75,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    seed: int = 0,
) -> pa.Table:
    """How far two scores agree on which experts to keep, and each with itself on other prompts.

    Args:
        keep: share of experts of a layer that stay.
    Returns:
        a, b (scores; the same twice: on two halves of the texts), spearman (rank correlation over experts, mean of
        layers), overlap (share of kept experts that both keep, mean of layers), chance (overlap of random choices).
    """
    parts = halves(trace, tokens, None, seed)
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    chances = []
    for layer in routers.numbers(trace):
        whole = scores_of(trace, layer, routers.stream, tokens)
        first, second = (
            scores_of(trace, layer, routers.stream, tokens, p) for p in (parts.fit_P, parts.report_P)
        )
        kept = kept_count(keep, len(whole["frequency"]))
        chances.append(kept / len(whole["frequency"]))
        for a, b in combinations(whole, 2):
            pairs.setdefault((a, b), []).append(_agree(whole[a], whole[b], kept))
        for name in first:
            pairs.setdefault((name, name), []).append(_agree(first[name], second[name], kept))
    rows = [
        {"a": a, "b": b, "spearman": _known_mean([v[0] for v in values]),
         "overlap": float(np.mean([v[1] for v in values])), "chance": float(np.mean(chances))}
        for (a, b), values in pairs.items()
    ]  # fmt: skip
    same = "The same score twice: on two halves of the texts; scores from the sheet have no halves."
    return with_notes(pa.Table.from_pylist(rows), [LIMIT, same, tokens.note()])


def kept_count(keep: float, experts: int) -> int:
    """How many experts stay: at least one."""
    if not 0 < keep <= 1:
        raise DecisionRefused(f"keep is {keep:g}; write a share above 0 and up to 1, such as 0.75")
    return max(1, round(keep * experts))


def kept_experts(score_E: np.ndarray, kept: int) -> np.ndarray:
    """Numbers of the experts with the largest scores; of equals the lower number stays."""
    return np.sort(np.argsort(-score_E, kind="stable")[:kept])


def _agree(a_E: np.ndarray, b_E: np.ndarray, kept: int) -> tuple[float, float]:
    flat = np.ptp(a_E) == 0 or np.ptp(b_E) == 0
    rank = np.nan if flat else float(np.corrcoef(_ranks(a_E), _ranks(b_E))[0, 1])
    both = np.intersect1d(kept_experts(a_E, kept), kept_experts(b_E, kept))
    return rank, len(both) / kept


def _known_mean(values: list[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _ranks(values_E: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    _, at, uses = np.unique(values_E, return_inverse=True, return_counts=True)
    return (np.cumsum(uses) - (uses + 1) / 2)[at]


@view("kept-overlap", needs=("token_numbers",))
def kept_overlap(
    trace: TraceRows,
    *,
    by: str = "language",
    keep: float = 0.5,
    score: str = "gate",
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """Whether two domains would keep the same experts.

    Args:
        by: a column of the prompts whose values are the domains.
        keep: share of experts of a layer that stay.
        score: frequency, gate or, where output norms were captured, reap or easy_ep.
    Returns:
        a, b (domains), overlap (share of kept experts that both keep, mean of layers), chance (of random choices).
    """
    groups = trace.groups(by)
    names = [(at, name) for at, name in enumerate(groups.names) if name is not None]
    if len(names) < 2:
        raise DecisionRefused(f"an overlap needs two values of {by}; the prompts have {len(names)}")
    kept_of: dict[str, list[np.ndarray]] = {name: [] for _, name in names}
    chances = []
    for layer in routers.numbers(trace):
        for at, name in names:
            found = scores_of(trace, layer, routers.stream, tokens, groups.group_P == at)
            if score not in found:
                raise DecisionRefused(f"the trace has no {score} by prompt; it has: {', '.join(found)}")
            kept = kept_count(keep, len(found[score]))
            kept_of[name].append(kept_experts(found[score], kept))
        chances.append(keep)
    rows = [
        {"a": a, "b": b, "chance": float(np.mean(chances)), "overlap": float(np.mean(
            [len(np.intersect1d(x, y)) / len(x) for x, y in zip(kept_of[a], kept_of[b], strict=True)]))}
        for _, a in names for _, b in names
    ]  # fmt: skip
    return with_notes(pa.Table.from_pylist(rows), [LIMIT, tokens.note()])
