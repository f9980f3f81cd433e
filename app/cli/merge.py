"""`moescope merge`: a checkpoint in which experts with like outputs are one, beside pruning to as many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .decision_options import smaller_model, tell_checkpoint
from .model_options import load
from .prune import pruning_of


@click.command("merge")
@smaller_model
def merge_command(
    model: str, trace: str, keep: float, score: str, tokens: int, draws: int, out: Path, fit_where: tuple[str, ...],
    where: tuple[str, ...], seed: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Merge experts with similar outputs: weights and router rows become means, weighted by use.

    The loss is compared with pruning to the same number (by --score) and with merging at random.

    \b
    Example:
      moescope weigh sample_data/model --trace my-trace
      moescope merge sample_data/model --trace my-trace --keep 0.75 --out merged
    """
    from ...tracer.prune.merging import Merging

    merging = Merging(pruning_of(trace, keep, score, out, fit_where, where, seed), seed=seed)
    loaded = load(model, options)
    clusters = merging.clusters(loaded.model)
    rows = merging.losses(loaded.model, tokens, draws)
    card = merging.card(model, trace, rows, clusters)
    difference = merging.write(loaded.model, loaded.tokenizer, out, card, clusters)
    facts = {"out": str(out), "clusters": clusters, "logit_difference": difference}
    tell_checkpoint(rows, merging.notes, facts, "it loads as the merged model", as_json)
