"""`moescope trace`: a model over a prompt set, with progress, resumable."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from ..text.words import amount
from .engine_options import engine_options, take_engine
from .model_options import fitting, load, model_options, profile_in, sampling_options
from .output import open_with_warnings
from .progress import Meter
from .ranks import expert_parallel, refuse_ranks, take_ranks
from .ray_options import ray_options, take_ray

if TYPE_CHECKING:
    from ...tracer.prompts.prompt_set import PromptSet
    from ...tracer.run.trace import TraceSummary


def _captures(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    from ...store.schema import CAPTURES

    names = tuple(name.strip() for name in value.split(",") if name.strip())
    unknown = [name for name in names if name not in CAPTURES]
    if unknown or not names:
        raise click.BadParameter(f"{value!r}; it takes {','.join(CAPTURES)}")
    return names


def _shard(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    number, slash, of = value.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise click.BadParameter(f"{value!r}; it takes K/N, such as 3/16, with K from 1 to N")
    return int(number), int(of)


@click.command("trace")
@click.argument("model")
@click.argument("prompts", type=click.Path(dir_okay=False))
@click.option("--out", required=True, metavar="TRACE", help="Folder or URL of the new trace.")
@model_options
@engine_options
@expert_parallel
@ray_options
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    default=8192,
    show_default=True,
    help="Padded tokens in a batch.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Prompts in a batch at most.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Tokens to generate after each prompt, recorded too.",
)
@sampling_options
@click.option(
    "--chat", is_flag=True, help="Apply the tokenizer's chat template; its tokens are marked special."
)
@click.option("--capture", default="ids,weights", show_default=True, callback=_captures,
              help="What to record: ids,weights,probability,entropy,logits,output_norm,similarity.")  # fmt: skip
@click.option("--weight-type", type=click.Choice(["float16", "float32"]), default="float16", show_default=True,
              help="How gate weights are stored.")  # fmt: skip
@click.option("--steer", metavar="PROFILE.json", type=click.Path(dir_okay=False), help="Steer while tracing.")
@click.option("--noise", type=click.IntRange(1), metavar="N",
              help="Also measure, on the first N prompts, how much routing changes when only batches, threads, "
              "attention or dtype change; stored in the manifest.")  # fmt: skip
@click.option("--reproducible", is_flag=True,
              help="One prompt per batch with eager attention, so that none depends on another. Slow.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue a trace of the same prompts where it stopped.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N prompts.")
@click.option("--shard", metavar="K/N", callback=_shard,
              help="Only every N-th prompt from the K-th on; `moescope merge-shards` joins the N traces.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def trace_command(
    model: str, prompts: str, out: str, steer: str | None, as_json: bool, **options: Any
) -> None:
    """Run a model over a prompt set and record which experts every token used.

    \b
    Example:
      moescope trace allenai/OLMoE-1B-7B-0924 prompts.csv --out my-trace
      moescope trace sample_data/model prompts.csv --out my-trace --max-new-tokens 32
      moescope trace Qwen/Qwen3-235B-A22B prompts.csv --out my-trace --engine vllm --tensor-parallel 8
    """
    from ...store.write.target import check_target
    from ...tracer.prompts.prompt_set import PromptSet

    engine = take_engine(options)
    ray = take_ray(options)
    ranks = _layout(options, engine, ray)
    _reproducible(options)
    prompt_set = PromptSet.from_file(prompts)
    for note in prompt_set.notes:
        click.echo(f"note: {prompts}: {note}", err=True)
    check_target(out, resume=options["resume"])
    profile = None if steer is None else profile_in(steer)
    chosen = prompt_set.limit(options["limit"])
    if (shard := options["shard"]) is not None and not len(chosen := chosen.shard(*shard)):
        there = amount(len(prompt_set), "prompt")
        raise click.UsageError(f"--shard {shard[0]}/{shard[1]}: the prompt set has only {there}")
    count = len(chosen)
    of = "" if count == len(prompt_set) else f"the first {count:,} of "
    if sys.stderr.isatty():  # elsewhere a failure is one line and nothing but the reason
        click.echo(f"{of}{amount(len(prompt_set), 'prompt')} from {prompts}; loading {model}", err=True)
    if ray is not None:
        summary = _trace_on_ray(model, prompt_set, out, profile, options, ray | {"vllm": engine})
    elif engine is not None:
        summary = _trace_in_vllm(model, prompt_set, out, profile, options, engine)
    else:
        summary = _trace_here(model, prompt_set, out, profile, steer, options, ranks)
    if summary.nan_tokens:
        open_with_warnings(out)  # says where
    if as_json:
        click.echo(json.dumps(summary.to_json()))
    else:
        _report(summary, out)


def _trace_here(
    model: str, prompts: PromptSet, out: str, profile: Any, path: str | None, options: dict[str, Any],
    ranks: dict[str, Any],
) -> TraceSummary:  # fmt: skip
    from .noise import floor_for

    noise, again = options.pop("noise", None), dict(options)
    loaded = load(model, options, ranks)
    from ...tracer import trace_prompts

    steering = None if profile is None else fitting(profile, path, loaded.model)
    floor = None if noise is None else floor_for(loaded, model, prompts.limit(noise), again)
    with Meter() as meter, _resumable(out):
        return trace_prompts(
            loaded.model, loaded.tokenizer, prompts, out, card=loaded.card, steering=steering,
            progress=meter.tell, noise=None if floor is None else floor.to_json(), **options,
        )  # fmt: skip


def _trace_on_ray(
    model: str, prompts: PromptSet, out: str, profile: Any, options: dict[str, Any], ray: dict[str, Any]
) -> TraceSummary:
    from ...tracer.engines.ray.trace import trace_with_ray
    from ...tracer.prepared import OPTIONS

    given = {name: options.pop(name) for name in OPTIONS if name in options}
    # Ray writes to stdout, which is for the command's own answer.
    with redirect_stdout(sys.stderr), Meter() as meter, _resumable(out):
        summary = trace_with_ray(
            model, prompts, out, load=given, steering=profile, progress=meter.tell, **ray, **options
        )
    if summary.deaths:
        click.echo(f"{amount(summary.deaths, 'worker')} died; others ran what was not committed", err=True)
    return summary


def _layout(options: dict[str, Any], engine: dict[str, Any] | None, ray: Any) -> dict[str, Any]:
    if ray is not None:
        return {}
    return take_ranks(options) if engine is None else _inside(engine, options)


def _inside(engine: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """An engine lays the model over devices itself."""
    refuse_ranks()
    if options.pop("expert_parallel"):
        engine["arguments"]["enable_expert_parallel"] = True
    return {}


def _trace_in_vllm(
    model: str, prompts: PromptSet, out: str, profile: Any, options: dict[str, Any], engine: dict[str, Any]
) -> TraceSummary:
    from ...tracer.engines.vllm.trace import trace_with_vllm

    with Meter() as meter, _resumable(out):
        summary = trace_with_vllm(
            model, prompts, out, steering=profile, progress=meter.tell, **engine, **options
        )
    checked = f"{summary.steps_checked:,} of {amount(summary.steps, 'step')} compared with what the experts received"
    click.echo(checked, err=True)
    if summary.recomputed:
        click.echo(
            f"computed again, the last result kept: {amount(summary.recomputed, 'position')}", err=True
        )
    return summary


def _reproducible(options: dict[str, Any]) -> None:
    """Puts the settings of --reproducible into the options. Raises UsageError where others contradict them."""
    if not options.pop("reproducible", False):
        return
    for name, value in (("attn_implementation", "eager"), ("batch_size", 1)):
        if options[name] not in (None, value):
            raise click.UsageError(f"--reproducible means --{name.replace('_', '-')} {value}")
        options[name] = value


@contextmanager
def _resumable(out: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise click.ClickException(
            f"interrupted; committed prompts are kept in {out}; continue with --resume"
        ) from None


def _report(summary: TraceSummary, out: str) -> None:
    click.echo(
        f"{amount(summary.prompts, 'prompt')}, {amount(summary.tokens, 'token')}, {amount(summary.events, 'event')} of "
        f"{amount(summary.routers, 'router')} in {summary.seconds:.1f} s "
        f"({summary.tokens_per_second:,.0f} tokens/s) → {out}"
    )
    if summary.resumed_prompts:
        click.echo(f"{amount(summary.resumed_prompts, 'prompt')} of them from an earlier run")
    if summary.accuracy is not None:
        click.echo(f"accuracy {summary.accuracy:.1%}")
    click.echo(f"look at it: moescope app {out}")
