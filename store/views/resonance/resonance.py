"""Which experts respond to one group of prompts more than to another, and how surely.

Source: Dahlke et al. 2025, arXiv 2502.11096; docs/methods/resonance.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.resonance import ResonanceResult
from ....kernels.resonance import resonance as contrast
from ...notes import with_notes
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..options import DECODER, Routers
from ..registry import view
from .contrast import WHOLE_PROMPT, ContrastFilter, Pairing, maps_of, pairing
from .sides import BY_GROUP, Group, Grouping, Sides

SELF_DEFINED = (
    "the groups are classes of answers, and the tokens of the answers are counted. A class then defines itself: "
    "experts that respond to its own words are found. Count the prompt's tokens alone (phase prefill) to see what "
    "came before."
)

_MEASURED = {
    "rate": "share of tokens",
    "weight_rate": "gate weight a token",
    "count": "number of tokens",
    "weight": "sum of gate weight",
}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A contrast of one trace: results over the cells of its routers, one router after another."""

    routers: list[RouterSpec]
    sides: Sides
    result: ResonanceResult
    share_target_M: np.ndarray
    """Mean share of the tokens of a target prompt that choose the expert, whatever the measure."""
    share_rest_M: np.ndarray
    notes: list[str]

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) number of the router and expert of each cell."""
        sizes = [spec.num_experts for spec in self.routers]
        return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])


def scan(
    trace: TraceRows,
    *,
    target: Group,
    grouping: Grouping,
    chosen: Routers,
    measure: str,
    paired: bool | None = None,
    tokens: ContrastFilter,
    permutations: int,
    stability: int,
    top: int,
    ranking: str,
    refine: bool,
    seed: int,
) -> Scan:
    """Run a contrast; the parameters are those of the view `resonance`."""
    sides = grouping.sides(trace, target)
    routers = chosen.specs(trace)
    wanted_P = sides.mask("target") | sides.mask("rest")
    maps_QM, rows = maps_of(trace, routers, wanted_P, measure, tokens)
    pairs = pairing(trace, sides, rows, paired)
    result = contrast(
        maps_QM,
        pairs.labels_Q,
        "target",
        "rest",
        permutations=permutations,
        seed=seed,
        pairs=pairs.pairs_Q,
        texts=pairs.texts_Q,
        stability=stability,
        top_n=top,
        ranking=ranking,  # pyright: ignore[reportArgumentType]
        refine=refine,
    )
    shares_QM = maps_QM if measure == "rate" else maps_of(trace, routers, wanted_P, "rate", tokens)[0]
    share_target_M, share_rest_M = _group_means(shares_QM, pairs)
    notes = [
        f"{sides.target} against {sides.rest} (A and B); measure: {_MEASURED.get(measure, measure)}.",
        result.method,
        f"Seed {seed}.",
        tokens.note(),
    ]
    answered = trace.prompts()["generated"].null_count < trace.num_prompts
    if answered and answers_counted({"by": grouping.by, "phase": tokens.phase, "last": tokens.last}):
        notes.append(f"Read with care: {SELF_DEFINED}")
    if result.smallest_lone_q > 0.05:
        notes.append(
            f"A single expert could reach q = {result.smallest_lone_q:.2g} at best: with so few prompts only "
            "several experts together can be found."
        )
    return Scan(
        routers=routers, sides=sides, result=result, notes=notes,
        share_target_M=share_target_M, share_rest_M=share_rest_M,
    )  # fmt: skip


def answers_counted(params: Mapping[str, Any]) -> bool:
    """Whether groups are classes of answers and tokens of the answers count.

    Args:
        params: of the view; `by`, and `phase`, `last` and `completion` where they are given.
    """
    ahead = params.get("phase") == "prefill" and not params.get("completion")
    return params["by"] == "class" and not ahead and params.get("last") is None


def _group_means(maps_QM: np.ndarray, pairs: Pairing) -> tuple[np.ndarray, np.ndarray]:
    """Means of each group as the score takes them: over prompts, or over pairs of their means within the pair."""
    weights_Q = pairs.weights()
    return weights_Q.clip(min=0) @ maps_QM, -weights_Q.clip(max=0) @ maps_QM


@view("resonance")
def resonance(
    trace: TraceRows,
    *,
    target: Group,
    grouping: Grouping = BY_GROUP,
    routers: Routers = DECODER,
    measure: str = "rate",
    paired: bool | None = None,
    tokens: ContrastFilter = WHOLE_PROMPT,
    permutations: int = 2000,
    stability: int = 200,
    top: int | None = None,
    among: int = 20,
    ranking: str = "absolute",
    refine: bool = True,
    seed: int = 0,
) -> pa.Table:
    """Contrast the routing maps of two groups of prompts, expert by expert.

    Args:
        target: values of `by` (comma between), or a SELECT of prompt ids.
        measure: rate (share of a prompt's tokens), count, weight or weight_rate (summed gate weights).
        paired: exchange within parallel_id only; by default where every prompt has a partner. Where it joins
            prompts of one group only, they change sides together.
        permutations: random relabellings; all of them where there are no more.
        stability: bootstraps of the prompts.
        top: how many experts to list; all by default.
        among: N of the stability, the share of bootstraps in which an expert is in the top N; `top` where
            that is given.
        ranking: absolute, target or rest.
        refine: draw more relabellings for experts that few of them matched.
        seed: of permutations and bootstraps.
    Returns:
        rank, layer, stream, expert, score (target mean - rest mean), effect (score / pooled standard
        deviation), p, q (Benjamini-Hochberg over all layers and experts), p_family (max-T), stability,
        target_mean, rest_mean (of the measure), target_share, rest_share (of a prompt's tokens); means are over
        prompts, where paired over pairs. In rank order.
    """
    found = scan(
        trace, target=target, grouping=grouping, chosen=routers, measure=measure, paired=paired,
        tokens=tokens, permutations=permutations, stability=stability, ranking=ranking, refine=refine, seed=seed,
        top=among if top is None else top,
    )  # fmt: skip
    return with_notes(scan_table(found, top), found.notes)


def scan_table(found: Scan, top: int | None) -> pa.Table:
    """The cells of a scan in rank order."""
    result = found.result
    router_M, expert_M = found.cells()
    order = result.top(len(router_M) if top is None else top)[:, 0]
    columns = {
        "rank": np.arange(1, len(order) + 1, dtype=np.int32),
        "layer": np.array([spec.layer for spec in found.routers], np.int32)[router_M[order]],
        "stream": np.array([spec.stream for spec in found.routers])[router_M[order]],
        "expert": expert_M[order].astype(np.int32),
        "score": result.score[order],
        "effect": result.effect[order],
        "p": result.p_value[order],
        "q": result.q_value[order],
        "p_family": result.p_family[order],
        "stability": result.stability[order],
        "target_mean": result.target_mean[order],
        "rest_mean": result.rest_mean[order],
        "target_share": found.share_target_M[order],
        "rest_share": found.share_rest_M[order],
    }
    return pa.table({name: pa.array(values) for name, values in columns.items()})
