"""Cells and rules of the Steer page's presets, from tables of named views."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from ...store.arrow import pc
from ...store.schema import Cell, LayerExpert, RouterKey, RouterSpec
from ...tracer.steering.read import read_rules
from ...tracer.steering.rules import Rule
from .edit import Rules
from .profiles import rules_by_layer


def on_cells(rule: str, cells: Iterable[Cell], amount: float | None) -> Rules:
    """One rule a layer for a set of cells."""
    amounts = {} if amount is None else {"amount": amount}
    of_stream: dict[str, list[LayerExpert]] = {}
    for stream, layer, expert in cells:
        of_stream.setdefault(stream, []).append(LayerExpert(layer, expert))
    made = [
        one
        for stream, where in of_stream.items()
        for one in rules_by_layer(rule, where, stream=stream, **amounts)
    ]
    return read_rules(made)


def top_of(scan: pa.Table, number: int, *, q: float | None) -> list[Cell]:
    """The first experts of a resonance scan that the target uses more, at most `number`.

    Args:
        scan: the view `resonance`: in rank order, with stream, layer, expert, score, q.
        q: largest false discovery rate; None takes all.
    """
    kept = scan.filter(pc.greater(scan["score"], 0))
    if q is not None:
        kept = kept.filter(pc.less_equal(kept["q"], q))
    order = pc.sort_indices(kept, sort_keys=[("score", "descending")])
    return _cells(kept.take(order[:number]))


def specialised_for(experts: pa.Table, language: str | None) -> list[Cell]:
    """Experts of the view `specialised-experts` that are specialised for a language, or for the task (None)."""
    mask = pc.is_null(experts["language"]) if language is None else pc.equal(experts["language"], language)
    return _cells(experts.filter(mask))


def busiest(load: pa.Table, number: int) -> list[Cell]:
    """The `number` experts of each router that are chosen most often; of equal ones those with lower ids."""
    keys = [("stream", "ascending"), ("layer", "ascending"), ("count", "descending"), ("expert", "ascending")]
    order = pc.sort_indices(load, sort_keys=keys)
    found: dict[RouterKey, list[Cell]] = {}
    for cell in _cells(load.take(order)):
        found.setdefault(cell.router, []).append(cell)
    return [cell for cells in found.values() for cell in cells[:number]]


def random_control(rules: Sequence[Rule], routers: Sequence[RouterSpec], seed: int) -> Rules:
    """The same rules on as many experts of the same layers, drawn at random without the experts that the rules
    name in that layer where enough others are left. Rules that name no experts stay as they are."""
    draw = random.Random(seed)
    named: dict[RouterKey, set[int]] = {}
    for spec in routers:
        for rule in rules:
            if rule.kind.experts and rule.experts is not None and rule.acts_in(spec.layer, spec.stream):
                named.setdefault(spec.key, set()).update(rule.experts)
    result: list[Rule] = []
    for rule in rules:
        if not rule.kind.experts or rule.experts is None:
            result.append(rule)
            continue
        for spec in routers:
            if rule.acts_in(spec.layer, spec.stream):
                result.append(_drawn(rule, spec, named[spec.key], draw))
    return tuple(result)


def _drawn(rule: Rule, spec: RouterSpec, named: set[int], draw: random.Random) -> Rule:
    everyone = list(range(spec.num_experts))
    others = [expert for expert in everyone if expert not in named]
    count = min(len(rule.experts or ()), spec.num_experts)
    chosen = draw.sample(others if len(others) >= count else everyone, count)
    return replace(rule, stream=spec.stream, layers=(spec.layer,), experts=tuple(sorted(chosen)))


def _cells(table: pa.Table) -> list[Cell]:
    columns = (table[name].to_pylist() for name in ("stream", "layer", "expert"))
    return list(dict.fromkeys(map(Cell, *columns)))
