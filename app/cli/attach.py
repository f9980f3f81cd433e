"""`moescope attach`: a trace from a running vLLM or SGLang server."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import click

from ...store.importers.formats import OPTIONS
from ..text.words import amount
from .files import token_text, whole_numbers
from .output import Lines

KEY_VARIABLE = "MOESCOPE_SERVER_KEY"


@click.command("attach")
@click.argument("url")
@click.argument("prompts", type=click.Path(dir_okay=False))
@click.option("--out", required=True, metavar="TRACE", help="Folder or URL of the new trace.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Tokens to generate after each prompt, recorded too.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N prompts.")
@click.option(
    "--at-once", type=click.IntRange(1, 256), default=16, show_default=True, help="Concurrent requests."
)
@click.option("--experts", type=click.IntRange(1), help=OPTIONS["experts"])
@click.option("--layers", metavar="3,4,5", callback=whole_numbers, help=OPTIONS["layers"])
@click.option("--top-k", type=click.IntRange(1), help=OPTIONS["top_k"])
@click.option("--num-layers", type=click.IntRange(1), help=OPTIONS["num_layers"])
@click.option("--tokenizer", metavar="MODEL", help=OPTIONS["token_text"])
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def attach_command(
    url: str, prompts: str, out: str, limit: int | None, tokenizer: str | None, as_json: bool, **options: Any
) -> None:
    """Send prompts to a running vLLM or SGLang server, and make a trace of the routing that it returns.

    The server must run with --enable-return-routed-experts; nothing of moescope is needed there. A server that wants
    an API key gets the one in the environment variable MOESCOPE_SERVER_KEY. Engines return expert ids, no gate weights.

    \b
    Example:
      moescope attach http://127.0.0.1:8000 prompts.csv --out my-trace --experts 128
    """
    from ...store.write.target import check_target
    from ...tracer.engines.attach import attach
    from ...tracer.prompts.prompt_set import PromptSet

    prompt_set = PromptSet.from_file(prompts).limit(limit)
    check_target(out)
    given = {name: value for name, value in options.items() if value is not None}
    if tokenizer is not None:
        given["token_text"] = token_text(tokenizer)
    made = attach(
        url, prompt_set, out, key=os.environ.get(KEY_VARIABLE), progress=Lines("prompts answered"), **given
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(made)))
        return
    what = [amount(made.prompts, "prompt"), amount(made.tokens, "token"), amount(made.events, "event")]
    click.echo(f"{', '.join(what)} → {out}")
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
