"""Which experts respond to one group of prompts more than to another, and how surely.

Source: Dahlke et al. 2025, arXiv 2502.11096; docs/methods/resonance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...kernels.resonance import ResonanceResult, overlap
from ...kernels.resonance import resonance as contrast
from ..errors import StoreError
from ..notes import with_notes
from ..reader import Trace
from ..response_classes import Rules, classify, read_rules
from ..schema import RouterSpec
from ..selection import Where
from . import view
from ._contrast import Group, Sides, maps_of, sides_of
from ._units import layers_of


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A contrast of one trace: results over the cells of its routers, one router after another."""

    routers: list[RouterSpec]
    sides: Sides
    result: ResonanceResult
    notes: list[str]

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) number of the router and expert of each cell."""
        sizes = [spec.num_experts for spec in self.routers]
        return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])


def scan(
    trace: Trace,
    *,
    by: str,
    target: Group,
    rest: Group = None,
    where: Where | None = None,
    rules: Rules | str | None = None,
    layers: str | None = None,
    stream: str = "decoder",
    measure: str = "rate",
    paired: bool | None = None,
    special: bool = True,
    phase: str | None = None,
    completion: bool | None = None,
    last: int | None = None,
    permutations: int = 2000,
    stability: int = 200,
    top: int = 20,
    ranking: str = "absolute",
    refine: bool = True,
    seed: int = 0,
) -> Scan:
    """Run a contrast; the parameters are those of the view `resonance`."""
    sides = sides_of(trace, by, target, rest, where, rules)
    routers = [trace.router(layer, stream) for layer in layers_of(trace, layers, stream)]
    maps_QM, rows = maps_of(
        trace,
        routers,
        sides.mask("target") | sides.mask("rest"),
        measure=measure,
        special=special,
        phase=phase,
        completion=completion,
        last=last,
    )
    labels = [sides.labels_P[row] for row in rows]
    for side, words in (("target", sides.target), ("rest", sides.rest)):
        if side not in labels:
            raise StoreError(f"no prompt of {words} has any token of the chosen span")
    parallel = trace.prompts()["parallel_id"].to_pylist()
    pairs = [parallel[row] for row in rows]
    if paired is None:
        paired = _all_paired(labels, pairs)
    result = contrast(
        maps_QM,
        labels,
        "target",
        "rest",
        permutations=permutations,
        seed=seed,
        pairs=pairs if paired else None,
        stability=stability,
        top_n=top,
        ranking=ranking,  # pyright: ignore[reportArgumentType]
        refine=refine,
    )
    span = [
        f"{sides.target} against {sides.rest}; measure {measure}.",
        result.method,
        f"Special and template tokens are {'counted' if special else 'left out'}.",
    ]
    if last is not None:
        span.append(f"Only the last {last} prompt tokens of each prompt.")
    if result.smallest_lone_q > 0.05:
        span.append(
            f"A single expert could reach q = {result.smallest_lone_q:.2g} at best: with so few prompts only "
            "several experts together can be found."
        )
    return Scan(routers=routers, sides=sides, result=result, notes=span)


def _all_paired(labels: list[str | None], pairs: list[str | None]) -> bool:
    """Whether every prompt of both groups has a partner in the other."""
    of: dict[str | None, set[str | None]] = {"target": set(), "rest": set()}
    for label, pair in zip(labels, pairs, strict=True):
        of[label].add(pair)
    return None not in of["target"] | of["rest"] and of["target"] == of["rest"]


@view("resonance")
def resonance(
    trace: Trace,
    *,
    target: str,
    rest: str | None = None,
    by: str = "group",
    where: Where | None = None,
    rules: str | None = None,
    layers: str | None = None,
    stream: str = "decoder",
    measure: str = "rate",
    paired: bool | None = None,
    special: bool = True,
    phase: str | None = None,
    completion: bool | None = None,
    last: int | None = None,
    permutations: int = 2000,
    stability: int = 200,
    top: int | None = None,
    ranking: str = "absolute",
    seed: int = 0,
) -> pa.Table:
    """Contrast the routing maps of two groups of prompts, expert by expert.

    Args:
        target: values of `by` (comma between), or a SELECT of prompt ids.
        rest: likewise; all other prompts by default.
        by: group, language, any tag, prompt_id, or class (of the generated answer, with `rules`).
        where: prompts to take at all, e.g. language=en.
        rules: for class: a JSON file of rules, or a CSV of prompt_id and class.
        layers: a window such as 3:6 (both ends in) or 3,5.
        measure: rate (share of a prompt's tokens), count, weight or weight_rate (summed gate weights).
        paired: exchange within parallel_id only; by default where every prompt has a partner.
        special: false leaves special and template tokens out.
        phase: prefill or decode, for those tokens only.
        completion: true for the teacher-forced span only.
        last: only the last so many tokens of each prompt.
        permutations: random relabellings; all of them where there are no more.
        stability: bootstraps of the prompts.
        top: how many experts to list; all by default. Stability is the share of bootstraps in the top N
            (20 where all are listed).
        ranking: absolute, target or rest.
        seed: of permutations and bootstraps.
    Returns:
        rank, layer, stream, expert, score (target mean - rest mean), effect (score / pooled standard
        deviation), p, q (Benjamini-Hochberg over all layers and experts), p_family (max-T), stability,
        target_mean, rest_mean. In rank order.
    """
    found = scan(
        trace, by=by, target=target, rest=rest, where=where, rules=rules, layers=layers, stream=stream,
        measure=measure, paired=paired, special=special, phase=phase, completion=completion, last=last,
        permutations=permutations, stability=stability, top=20 if top is None else top, ranking=ranking,
        seed=seed,
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
    }
    return pa.table({name: pa.array(values) for name, values in columns.items()})


@view("resonance-overlap")
def resonance_overlap(
    trace: Trace,
    *,
    target: str,
    other_target: str,
    rest: str | None = None,
    other_rest: str | None = None,
    by: str = "group",
    other_by: str | None = None,
    where: Where | None = None,
    layers: str | None = None,
    stream: str = "decoder",
    measure: str = "rate",
    top: int = 20,
    seed: int = 0,
) -> pa.Table:
    """Do the top experts of two contrasts coincide?

    Args:
        target, rest, by: the first contrast, as in `resonance`.
        other_target, other_rest, other_by: the second.
        top: experts of each contrast, towards its target.
    Returns:
        one row: jaccard, shared, expected (shared by chance, given how many each layer has), p (one-sided,
        exact), top. Contrasts that share prompts overlap for that reason alone.
    """
    masks, notes = [], []
    for one, group, against in ((by, target, rest), (other_by or by, other_target, other_rest)):
        found = scan(
            trace, by=one, target=group, rest=against, where=where, layers=layers, stream=stream,
            measure=measure, top=top, ranking="target", permutations=200, stability=0, refine=False,
            seed=seed,
        )  # fmt: skip
        router_M, expert_M = found.cells()
        mask = np.zeros((len(found.routers), int(expert_M.max()) + 1), bool)
        chosen = found.result.top_mask()
        mask[router_M[chosen], expert_M[chosen]] = True
        masks.append(mask)
        notes.append(found.notes[0])
    shared = overlap(*masks)
    row = {
        "jaccard": shared.jaccard,
        "shared": shared.shared,
        "expected": shared.expected,
        "p": shared.p_value,
    }
    return with_notes(pa.Table.from_pylist([row | {"top": top}]), notes)


@view("response-classes")
def response_classes(trace: Trace, *, rules: str, where: Where | None = None) -> pa.Table:
    """The class of each generated answer, with the rule and the words that decided.

    Args:
        rules: a JSON file {"class": ["regular expression", ...], ...}; the first that matches decides.
        where: prompts to take.
    Returns:
        prompt_id, class (null where nothing was generated), pattern, matched, generated.
    """
    found_rules = read_rules(rules)
    prompts = trace.prompts(where).select(["prompt_id", "generated"]).to_pylist()
    rows = []
    for row in prompts:
        found = classify(row["generated"], found_rules)
        name, pattern, matched = (
            (None, None, None) if found is None else (found.name, found.pattern, found.matched)
        )
        rows.append(
            {"prompt_id": row["prompt_id"], "class": name, "pattern": pattern, "matched": matched,
             "generated": row["generated"]}
        )  # fmt: skip
    names = ("prompt_id", "class", "pattern", "matched", "generated")
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))
