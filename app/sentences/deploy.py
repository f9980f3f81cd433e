"""Answers to the questions of the page Deploy, in words with their numbers."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from ...kernels.offload import ring_schedule
from ..text import words

NAMES = {
    "greedy": "largest first",
    "eplb-global": "EPLB, global",
    "eplb-hierarchical": "EPLB, hierarchical",
    "milp": "integer program",
    "lru": "LRU",
    "lfu": "LFU",
    "belady": "Belady",
    "same_as_previous_token": "last-token prediction",
    "layer_frequency": "frequency prediction",
    "transition": "previous-layer prediction",
    "mc-moe": "MC-MoE's program",
    "gate": "gate weight",
    "reap": "REAP",
    "easy_ep": "EASY-EP",
}
"""What tables call alternatives → what a page calls them; others have the same name there."""


def named(name: str) -> str:
    """An alternative as the page calls it."""
    return NAMES.get(name, name)


def with_names(table: pa.Table, column: str) -> pa.Table:
    """A table for a picture: its alternatives as the page calls them."""
    names = pa.array([named(name) for name in table[column].to_pylist()])
    return table.set_column(table.column_names.index(column), column, names)


def placement_answer(table: pa.Table, method: str) -> str:
    """How even one placement is on held-out prompts, beside the plain ones.

    Args:
        table: the view `placement`.
        method: the one that is spoken of.
    """
    whole = {row["method"]: row for row in table.to_pylist() if row["layer"] is None}
    row = whole[method]
    # A trace of one sequence has no other prompts to report on.
    own = all(one["balancedness"] == one["fitted"] for one in whole.values())
    on = "the counts that it was fitted on" if own else "prompts that it was not fitted on"
    said = (
        f"Balancedness of the {named(method)} placement: {words.percent(row['balancedness'])} on {on}"
        f"{_between(row['low'], row['high'])}"
    )
    plain = [
        f"{name} {words.percent(whole[name]['balancedness'])}"
        for name in ("contiguous", "random")
        if name in whole and name != method
    ]
    said += f"; {' and '.join(plain)}." if plain else "."
    if row["remote_share"] is not None:
        said += f" {words.percent(row['remote_share'])} of what goes from layer to layer changes the device."
    return said


def dispatch_answer(rows: pa.Table, method: str) -> str:
    """What stays on its device in one layer, and how uneven single batches are.

    Args:
        rows: the view `dispatch`, of one layer.
    """
    row = rows.to_pylist()[0]
    devices = round(rows.num_rows**0.5)
    return (
        f"Layer {row['layer']}, {named(method)} without copies: {words.percent(row['local_share'])} of the choices "
        f"stay on their token's device (by chance {words.percent(1 / devices)}). The busiest device of a micro-batch "
        f"gets {row['busiest_over_mean']:.2f} times the mean load, {row['worst_batch']:.2f} times in the worst one."
    )


def offload_answer(table: pa.Table) -> str:
    """How much a cache hits, at the largest size that was asked for.

    Args:
        table: the view `offload`.
    """
    rows = table.to_pylist()
    if not rows:
        return "No token passed the chosen layers."
    real = [
        row
        for row in rows
        if row["kind"] != "knows the future" and row["slots"] == max(r["slots"] for r in rows)
    ]
    best = max(real, key=lambda row: row["hit_rate"])
    held = words.amount(best["slots"], "slot")
    memory = (
        f"{words.size(best['bytes'])} for experts ({held} a layer)" if best["bytes"] else f"{held} a layer"
    )
    others = ", ".join(
        f"{named(row['policy'])} {words.percent(row['hit_rate'])}" for row in real if row is not best
    )
    ceiling = next(r for r in rows if r["policy"] == "belady" and r["slots"] == best["slots"])
    return (
        f"With {memory}, {words.percent(best['hit_rate'])} of accesses hit with {named(best['policy'])}"
        f"{_between(best['low'], best['high'])}; {others}; a cache that knows the future "
        f"{words.percent(ceiling['hit_rate'])}."
    )


def regrouping_answer(table: pa.Table, batch: int) -> str:
    """What regrouping sequences saves.

    Args:
        table: the view `regrouping`.
    """
    row = {one["order"]: one for one in table.to_pylist()}
    if not row:
        return "No sequence passed the chosen layers."
    return (
        f"A batch of {words.amount(batch, 'sequence')} needs {words.percent(row['regrouped']['share'])} of all experts "
        f"regrouped, {words.percent(row['as recorded']['share'])} in the recorded order and "
        f"{words.percent(row['random']['share'])} in a random one."
    )


def ring_answer(layers: int, compute: float, copy: float) -> str:
    """Slots of a ring from which on nothing waits, for times that the user gave."""
    runs = [ring_schedule([compute] * layers, copy, slots) for slots in range(1, layers + 1)]
    enough = next(at for at, run in enumerate(runs, 1) if run.stall <= runs[-1].stall + 1e-9)
    return (
        f"Ring of layers with your times ({compute:g} ms to compute, {copy:g} ms to copy a layer): one slot takes "
        f"{runs[0].total:g} ms a pass, of which {runs[0].stall:g} ms waiting; {words.amount(enough, 'slot')} of "
        f"{layers} reach the least, {runs[-1].total:g} ms."
    )


def bits_answer(table: pa.Table, method: str) -> str:
    """What an allocation saves of the predicted error.

    Args:
        table: the view `bits`, of one budget.
    """
    row = {one["method"]: one for one in table.to_pylist()}
    chosen, uniform = row[method], row["uniform"]
    return (
        f"{named(method)} at {chosen['mean_bits']:.2f} bits an expert predicts {words.percent(chosen['relative'])} of "
        f"the error of random allocations of the same budget, on prompts that it was not fitted on; the same bits for "
        f"all ({uniform['mean_bits']:.2f}) {words.percent(uniform['relative'])}."
    )


def pruning_answer(
    table: pa.Table, score: str, kept: Iterable[tuple[int, int]], agreement: pa.Table | None
) -> str:
    """How many experts stay, what share of choices went to the others, and how stable that is.

    Args:
        table: the view `expert-scores`.
        kept: (layer, expert) of those that stay.
        agreement: the view `score-agreement`.
    """
    stay = set(kept)
    rows = table.to_pylist()
    layers = len({row["layer"] for row in rows})
    lost = sum(row["frequency"] for row in rows if (row["layer"], row["expert"]) not in stay) / layers
    said = (
        f"{words.count(len(rows) - len(stay))} of {words.amount(len(rows), 'expert')} would go; "
        f"{words.percent(lost)} of all choices went to them."
    )
    own = [
        row
        for row in (agreement.to_pylist() if agreement is not None else [])
        if row["a"] == row["b"] == score
    ]
    if own:
        said += (
            f" On two halves of the texts, {named(score)} keeps {words.percent(own[0]['overlap'])} of the same experts "
            f"(chance {words.percent(own[0]['chance'])})."
        )
    return said


def preview_answer(table: pa.Table, score: str) -> str:
    """What pruning costs a live model.

    Args:
        table: `prune_preview.table_of`.
    """
    rows = table.to_pylist()
    row = rows[0]
    told = (
        f"{words.amount(row['tokens'], 'held-out token')}: perplexity {row['all experts']:.4g} with all experts, "
        f"{row[score]:.4g} with those that {named(score)} keeps, {row['random']:.4g} with random ones "
        f"({row['random least']:.4g} to {row['random most']:.4g} in three draws)."
    )
    if score != "frequency":
        told += f" Frequency: {row['frequency']:.4g}."
    worst = max(rows[1:], key=lambda one: one[score] / one["all experts"], default=None)
    if worst is not None and len(rows) > 2:
        told += (
            f" It costs most in {words.language_name(worst['language'])}: {worst['all experts']:.4g} → "
            f"{worst[score]:.4g}. Few prompts a language: a hint, no finding; moescope prune measures more."
        )
    return told


def likeness_answer(rows: pa.Table) -> str:
    """How alike the experts of clusters are, beside random clusters.

    Args:
        rows: the view `likeness`, of one layer.
    """
    first = rows.to_pylist()[0]
    clusters = len(set(rows["cluster"].to_pylist()))
    return (
        f"{words.amount(rows.num_rows, 'expert')} in {words.amount(clusters, 'cluster')}: experts of one cluster "
        f"have outputs with a mean cosine of {first['within']:.2f}; in random clusters of the same sizes "
        f"{first['random']:.2f}, over all pairs {first['mean']:.2f}."
    )


def calibration_answer(table: pa.Table) -> str:
    """How even a picked set is beside random ones.

    Args:
        table: the view `calibration-balance`.
    """
    rows = table.to_pylist()
    picked, random = (next(row for row in rows if row["set"] == name) for name in ("picked", "random"))
    spread = f"{random['low']:.4f} to {random['high']:.4f}"
    return (
        f"{words.amount(picked['prompts'], 'picked prompt')} use experts with σ {picked['sigma']:.4f} (0 is perfectly "
        f"even); random sets of as many have {random['sigma']:.4f} ({spread}), all prompts {rows[-1]['sigma']:.4f}. "
        f"The picked ones have {words.count(picked['tokens'])} tokens, random ones {words.count(random['tokens'])}."
    )


def card_answer(table: pa.Table) -> str:
    """The shape of a model in words.

    Args:
        table: the view `model-card`.
    """
    row = table.to_pylist()[0]
    if row["sparsity"] is None:
        return "How many experts a token uses varies or is unknown: there is no sparsity to tell."
    said = f"A token uses {row['top_k']:g} of {row['experts']} experts: sparsity {words.percent(row['sparsity'])}."
    if row["parameters"] and row["active_parameters"]:
        share = words.percent(row["active_parameters"] / row["parameters"])
        active = words.count(row["active_parameters"])
        said += f" {active} of {words.count(row['parameters'])} parameters are active ({share})."
    if row["tokens_per_parameter"] is not None:
        said += f" {row['tokens_per_parameter']:.1f} training tokens a parameter."
    if row["leverage"] is not None:
        outside = "" if row["inside_fit"] else " (far from its worked points)"
        said += (
            f" Granularity {row['granularity']:.3g}; the scaling law expects a leverage of {row['leverage']:.2f} at "
            f"{words.power(row['compute'])} training FLOPs{outside}."
        )
    else:
        said += " The trace lacks the parameter counts, so the leverage of this model can't be computed."
    return said


def _between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" ({words.percent(low)} to {words.percent(high)})"
