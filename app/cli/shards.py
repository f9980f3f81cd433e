"""`moescope merge-shards`: one trace of several that a scheduler's tasks have made."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ..text.words import amount
from .output import Lines


@click.command("merge-shards")
@click.argument("out")
@click.argument("shards", nargs=-1, required=True)
@click.option("--resume", is_flag=True, help="Continue a merge that was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def merge_shards_command(out: str, shards: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Make one trace of several of the same prompt set; the shards stay as they are.

    They must have the same weights, routers, capture and settings, and no prompt twice. The trace is `partial` where
    prompts of the set are in no shard: `moescope trace ... --out OUT --resume` adds them.

    \b
    Example:
      moescope trace MODEL prompts.csv --out shards/1 --shard 1/2
      moescope trace MODEL prompts.csv --out shards/2 --shard 2/2
      moescope merge-shards my-trace shards/1 shards/2
    """
    from ...store.write.merge import merge_shards

    if len(shards) < 2:
        raise click.UsageError("give at least two shards")
    merged = merge_shards(shards, out, resume=resume, progress=Lines("parts"))
    if merged.identity != "weights_fingerprint":
        click.echo(
            f"warning: the shards have no fingerprint of their weights; they have the same {merged.identity}",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(asdict(merged)))
        return
    click.echo(
        f"{amount(merged.prompts, 'prompt')}, {amount(merged.events, 'event')} of {merged.shards} shards → {out}"
    )
    if merged.missing:
        click.echo(
            f"{amount(merged.missing, 'prompt')} of the set {'is' if merged.missing == 1 else 'are'} in no shard; "
            "moescope trace --resume traces what is missing"
        )
