"""`moescope trace`: a model over a prompt set, with progress, resumable."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import Lines, open_told

if TYPE_CHECKING:
    from ...tracer.run.trace import Progress, TraceSummary

LINE_SECONDS = 10.0
MODEL_OPTIONS = (
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."),
    click.option("--gguf-file", metavar="NAME", help="A GGUF file inside the model's folder or repository."),
    click.option(
        "--experts", type=int, metavar="N", help="View a dense model as N emergent experts a layer."
    ),
    click.option(
        "--experts-used", type=int, metavar="K", help="Of those use K a token; by default only trace them."
    ),
)


def model_options(command: Any) -> Any:
    """The options of every command that loads a model."""
    for option in reversed(MODEL_OPTIONS):
        command = option(command)
    return command


def load(model: str, options: dict[str, Any]) -> Any:
    """A loaded model, viewed as emergent experts where asked. Takes its options out of `options`."""
    experts, used = options.pop("experts"), options.pop("experts_used")
    given = {name: options.pop(name) for name in ("device", "dtype", "trust_remote_code", "gguf_file")}
    if used is not None and experts is None:
        raise click.UsageError("--experts-used needs --experts")
    from transformers.utils import logging as transformers_logging

    from ...tracer import load_model

    # Its bars would stand between the user and the one line that says what went wrong.
    transformers_logging.disable_progress_bar()
    loaded = load_model(model, **given)
    if experts is not None:
        from ...tracer import emergent_moe

        click.echo(f"splitting the feed-forward layers into {experts} groups of neurons each", err=True)
        emergent_moe(loaded.model, experts, top_k=used, progress=Lines("layers"))
    return loaded


def steering_from(path: str | None, model: Any) -> Any:
    """The profile in a file, checked against the model; None where no file is named."""
    return None if path is None else fitting(profile_in(path), path, model)


def profile_in(path: str) -> Any:
    """The profile in a file, not yet checked against a model."""
    from ...tracer import Steering

    return Steering.from_json(Path(path))


def fitting(steering: Any, path: str | None, model: Any) -> Any:
    """A profile that fits the model. Raises SteeringError, which names what does not."""
    from ...tracer.errors import SteeringError

    problems = steering.validate(model)
    if problems:
        raise SteeringError(f"{path} does not fit this model: {'; '.join(map(str, problems))}")
    return steering


def _captures(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    from ...store.schema import CAPTURES

    names = tuple(name.strip() for name in value.split(",") if name.strip())
    unknown = [name for name in names if name not in CAPTURES]
    if unknown or not names:
        raise click.BadParameter(f"{value!r}; it takes {','.join(CAPTURES)}")
    return names


@click.command("trace")
@click.argument("model")
@click.argument("prompts", type=click.Path(dir_okay=False))
@click.option("--out", required=True, metavar="TRACE", help="Folder or URL of the new trace.")
@model_options
@click.option(
    "--batch-tokens", type=click.IntRange(1), default=8192, show_default=True, help="Padded tokens a batch."
)
@click.option("--batch-size", type=click.IntRange(1), help="Prompts in a batch at most.")
@click.option(
    "--max-new-tokens", type=click.IntRange(0), default=0, show_default=True, help="Generate and record."
)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0: the likeliest."
)
@click.option(
    "--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Nucleus of the sampling."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling.")
@click.option(
    "--chat", is_flag=True, help="Apply the tokenizer's chat template; its tokens are marked special."
)
@click.option("--capture", default="ids,weights", show_default=True, callback=_captures,
              help="Of ids,weights,probability,entropy,logits,output_norm,similarity.")  # fmt: skip
@click.option("--weight-type", type=click.Choice(["float16", "float32"]), default="float16", show_default=True,
              help="How gate weights are stored.")  # fmt: skip
@click.option("--steer", metavar="PROFILE.json", type=click.Path(dir_okay=False), help="Steer while tracing.")
@click.option("--resume", is_flag=True, help="Go on where a trace of the same prompts stopped.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N prompts.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def trace_command(
    model: str, prompts: str, out: str, steer: str | None, as_json: bool, **options: Any
) -> None:
    """Run a model over a prompt set and record which experts every token used.

    \b
    Example:
      moescope trace allenai/OLMoE-1B-7B-0924 prompts.csv --out my-trace
      moescope trace sample_data/model prompts.csv --out my-trace --max-new-tokens 32
    """
    from ...store.write.writer import check_target
    from ...tracer.prompts.prompt_set import PromptSet

    prompt_set = PromptSet.from_file(prompts)
    check_target(out, resume=options["resume"])
    profile = None if steer is None else profile_in(steer)
    count = len(prompt_set.limit(options["limit"]))
    of = "" if count == len(prompt_set) else f"the first {count:,} of "
    if sys.stderr.isatty():  # elsewhere a failure is one line and nothing but the reason
        click.echo(f"{of}{len(prompt_set):,} prompts from {prompts}; loading {model}", err=True)
    loaded = load(model, options)
    from ...tracer import trace_prompts

    steering = None if profile is None else fitting(profile, steer, loaded.model)
    with Meter() as meter:
        try:
            summary = trace_prompts(
                loaded.model, loaded.tokenizer, prompt_set, out,
                card=loaded.card, steering=steering, progress=meter.tell, **options,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise click.ClickException(
                f"interrupted; what is committed stays in {out}, --resume goes on"
            ) from None
    if summary.nan_tokens:
        open_told(out)  # says where
    if as_json:
        click.echo(json.dumps(summary.to_json()))
    else:
        _report(summary, out)


def _report(summary: TraceSummary, out: str) -> None:
    click.echo(
        f"{summary.prompts:,} prompts, {summary.tokens:,} tokens, {summary.events:,} events of {summary.routers} "
        f"routers in {summary.seconds:.1f} s ({summary.tokens_per_second:,.0f} tokens/s) → {out}"
    )
    if summary.resumed_prompts:
        click.echo(f"{summary.resumed_prompts:,} prompts were there already")
    if summary.accuracy is not None:
        click.echo(f"accuracy {summary.accuracy:.1%}")
    click.echo(f"look at it: moescope app {out}")


class Meter:
    """Progress with tokens a second and the time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.percentage:>3.0f} %"), BarColumn(), TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("trace", total=None, words="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, progress: Progress) -> None:
        words = f"{progress.prompts:,}/{progress.total_prompts:,} prompts · {progress.tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(
                self._task, completed=progress.tokens, total=progress.total_tokens or None, words=words
            )
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            left = "" if progress.eta_seconds is None else f" · {progress.eta_seconds:.0f} s left"
            click.echo(words + left, err=True)
