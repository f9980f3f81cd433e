"""`moescope prune`: a checkpoint without some of its experts, beside what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .decision_options import smaller_model, tell_checkpoint
from .model_options import load
from .output import open_with_warnings
from .view_options import conditions


@click.command("prune")
@smaller_model
def prune_command(
    model: str, trace: str, keep: float, score: str, tokens: int, draws: int, out: Path, fit_where: tuple[str, ...],
    where: tuple[str, ...], seed: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Write a checkpoint without some experts, after checking its logits against the steering keep_only.

    \b
    Example:
      moescope weigh sample_data/model --trace my-trace
      moescope prune sample_data/model --trace my-trace --keep 0.75 --score reap --out pruned
    """
    pruning = pruning_of(trace, keep, score, out, fit_where, where, seed)
    loaded = load(model, options)
    rows = pruning.losses(loaded.model, tokens, draws)
    difference = pruning.write(loaded.model, loaded.tokenizer, out, pruning.card(model, trace, rows))
    facts = {"out": str(out), "kept": pruning.kept, "logit_difference": difference}
    tell_checkpoint(rows, pruning.notes, facts, "its logits equal those of keep_only", as_json)


def pruning_of(
    trace: str, keep: float, score: str, out: Path, fit_where: tuple[str, ...], where: tuple[str, ...], seed: int
) -> Any:  # fmt: skip
    """The `Pruning` that the options ask for, before any model is loaded."""
    from ...store.read.token_filter import TokenFilter
    from ...tracer.prune import PruneError
    from ...tracer.prune.decide import Pruning

    if out.exists():
        raise PruneError(f"{out} is there already")
    return Pruning(
        open_with_warnings(trace),
        keep=keep,
        score=score,
        fit=conditions(fit_where),
        tokens=TokenFilter(where=conditions(where)),
        seed=seed,
    )
