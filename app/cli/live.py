"""Commands that run a model at once: generate, serve, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .engine_options import engine_options, take_engine
from .model_options import load, model_options, sampling_options, steering_from
from .noise import floor_for, show
from .output import as_text
from .ranks import expert_parallel, take_ranks


@click.command("generate")
@click.argument("model")
@click.argument("prompt")
@model_options
@click.option(
    "--steer", metavar="PROFILE.json", type=click.Path(dir_okay=False), help="The steering profile."
)
@click.option("--compare", is_flag=True, help="Also generate without the profile.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Maximum number of tokens to generate.",
)
@sampling_options
@click.option("--chat", is_flag=True, help="Apply the tokenizer's chat template.")
@click.option(
    "--rewire",
    is_flag=True,
    help="Optimise router logit vectors on the prompt and the text so far (arXiv 2510.14853).",
)
@click.option(
    "--rewire-layers", type=click.Choice(["all", "most_confident", "least_confident"]), default="all",
    show_default=True, help="Which layers learn: all, or the half whose choices are most or least confident.",
)  # fmt: skip
@click.option("--renew-every", type=click.IntRange(0), default=128, show_default=True,
              help="--rewire learns again after this many generated tokens; 0: only once, on the prompt.")  # fmt: skip
@click.option(
    "--rewire-reset", is_flag=True, help="Start each renewal from zero instead of the current vectors."
)
@click.option("--json", "as_json", is_flag=True, help="The generated texts as JSON on stdout.")
def generate_command(
    model: str, prompt: str, steer: str | None, compare: bool, as_json: bool, **options: Any
) -> None:
    """Continue a prompt, with a steering profile, without it, or both.

    \b
    Example:
      moescope generate sample_data/model "Choose Insert" --steer off.json --compare
      moescope generate sample_data/model "Choose Insert" --rewire --compare
    """
    rewire = _rewiring(options)
    if compare and steer is None and rewire is None:
        raise click.UsageError(
            "--compare needs --steer PROFILE.json or --rewire: there is nothing to compare with"
        )
    loaded = load(model, options)
    from ...tracer.generate import generate

    steering = steering_from(steer, loaded.model)
    changed: dict[str, Any] = {"steering": steering, "rewire": rewire}
    sides = {"steered": changed} if any(one is not None for one in changed.values()) else {}
    if compare or not sides:
        sides = {"base": {}, **sides}
    answers = {
        side: generate(loaded.model, loaded.tokenizer, prompt, **wishes, **options)[0]
        for side, wishes in sides.items()
    }
    if as_json:
        shown = {
            side: {"text": answer.text, "token_ids": answer.token_ids, "finished": answer.finished}
            for side, answer in answers.items()
        }
        click.echo(json.dumps({"prompt": prompt, **shown}, ensure_ascii=False))
        return
    for side, answer in answers.items():
        heading = f"── {side} " + "─" * (60 - len(side)) + "\n" if len(answers) > 1 else ""
        click.echo(f"{heading}{answer.text}")
    if len(answers) == 2:
        base, steered = (answers[side].token_ids for side in ("base", "steered"))
        same = next(
            (i for i, pair in enumerate(zip(base, steered, strict=False)) if pair[0] != pair[1]), None
        )
        if same is None and len(base) == len(steered):
            click.echo("the two are the same", err=True)
        else:
            first = min(len(base), len(steered)) if same is None else same
            click.echo(f"they differ from token {first + 1} on", err=True)


def _rewiring(options: dict[str, Any]) -> Any:
    """How vectors are learned, None where they are not. Takes its options out of `options`."""
    layers, every, reset = (options.pop(name) for name in ("rewire_layers", "renew_every", "rewire_reset"))
    if not options.pop("rewire"):
        if layers != "all" or every != 128 or reset:
            raise click.UsageError("--rewire-layers, --renew-every and --rewire-reset need --rewire")
        return None
    from ...tracer.generate.rewiring import Rewiring

    return Rewiring(layers=layers, renew_every=every, reset=reset)


@click.command("serve")
@click.argument("model")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Any but loopback needs --token-file.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="File with the access token; created with mode 600 where it is missing.")  # fmt: skip
@model_options
@engine_options
def serve_command(model: str, **options: Any) -> None:
    """Serve a model over HTTP; prints one JSON line with URL and token file when it is ready.

    \b
    Example:
      moescope serve sample_data/model --port 8700
    """
    if options["experts_used"] is not None and options["experts"] is None:
        raise click.UsageError("--experts-used needs --experts")
    engine = take_engine(options)
    from ...tracer.serve.binding import ServeError
    from ...tracer.serve.server import run_server

    try:
        run_server(model, engine=engine, **options)
    except ServeError as error:
        raise click.ClickException(str(error)) from None


@click.command("doctor")
@click.argument("model")
@model_options
@expert_parallel
@click.option("--noise", type=click.Path(dir_okay=False), metavar="PROMPTS",
              help="A prompt set on which to measure how much of the routing changes with batches, threads, attention "
              "and dtype alone.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), default=64, show_default=True, metavar="N",
              help="With --noise: only the first N prompts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def doctor_command(model: str, noise: str | None, limit: int, as_json: bool, **options: Any) -> None:
    """Check on a real model that what is recorded is what is executed, and print its routers.

    With --noise also the noise floor: the share of expert sets, of their order and of stored weights that change when
    only the arithmetic does. A difference between two traces of the model means something only above it.

    \b
    Example:
      moescope doctor sample_data/model
      moescope doctor sample_data/model --noise sample_data/contrast.csv --limit 32
    """
    from ...tracer.prompts.prompt_set import PromptSet

    ranks = take_ranks(options | {"noise": noise})
    options.pop("expert_parallel")
    prompts = PromptSet.from_file(noise).limit(limit) if noise else None
    again = dict(options)
    loaded = load(model, options, ranks)
    from ...tracer.diagnose import diagnose

    report = diagnose(loaded.model, loaded.tokenizer)
    floor = None if prompts is None else floor_for(loaded, model, prompts, again)
    if as_json:
        told = report.to_json() | ({} if floor is None else {"noise": floor.to_json()})
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        import pyarrow as pa

        click.echo(as_text(pa.Table.from_pylist(report.rows), width=44), nl=False)
        for line in report.lines:
            click.echo(line)
        if floor is not None:
            show(floor)
    if not report.passed:
        raise click.ClickException(f"{model} failed the check: do not trust its traces")
