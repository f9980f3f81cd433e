"""`moescope prune`: a checkpoint without some of its experts, beside what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .decision_options import FIT_WHERE, SEED, WHERE
from .model_options import load, model_options
from .output import as_text, open_with_warnings
from .view_options import conditions


@click.command("prune")
@click.argument("model")
@click.option(
    "--trace", required=True, metavar="TRACE", help="A trace of this model: which experts its prompts need."
)
@click.option(
    "--keep",
    default=0.75,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of experts that stay in each layer.",
)
@click.option(
    "--score", type=click.Choice(("frequency", "gate", "reap", "easy_ep")), default="reap", show_default=True,
    help="Which experts stay; reap and easy_ep need captured output norms or moescope weigh.",
)  # fmt: skip
@click.option(
    "--tokens",
    default=4096,
    show_default=True,
    type=click.IntRange(1),
    help="Held-out tokens to measure the loss on.",
)
@click.option(
    "--random",
    "draws",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Random choices of experts for comparison.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the new checkpoint.",
)
@FIT_WHERE
@WHERE
@SEED
@model_options
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")
def prune_command(
    model: str, trace: str, keep: float, score: str, tokens: int, draws: int, out: Path, fit_where: tuple[str, ...],
    where: tuple[str, ...], seed: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Cut experts out of a model: the checkpoint is compared with the steering keep_only before it is there.

    \b
    Example:
      moescope weigh sample_data/model --trace my-trace
      moescope prune sample_data/model --trace my-trace --keep 0.75 --score reap --out pruned
    """
    import pyarrow as pa

    from ...store.read.token_filter import TokenFilter
    from ...tracer.prune import PruneError
    from ...tracer.prune.decide import Pruning

    if out.exists():
        raise PruneError(f"{out} is there already")
    opened = open_with_warnings(trace)
    pruning = Pruning(
        opened,
        keep=keep,
        score=score,
        fit=conditions(fit_where),
        tokens=TokenFilter(where=conditions(where)),
        seed=seed,
    )
    loaded = load(model, options)
    rows = pruning.losses(loaded.model, tokens, draws)
    card = pruning.card(model, trace, rows)
    difference = pruning.write(loaded.model, loaded.tokenizer, out, card)
    if as_json:
        click.echo(
            json.dumps({"out": str(out), "loss": rows, "kept": pruning.kept, "logit_difference": difference})
        )
        return
    click.echo(as_text(pa.Table.from_pylist(rows)), nl=False)
    for note in pruning.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(
        f"→ {out}: its logits equal those of keep_only (largest difference {difference:.1e})", err=True
    )
