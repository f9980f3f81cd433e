"""The options of every command that loads a model, and the profile that steers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .output import Lines
from .ranks import refuse_ranks

SEEDS = click.IntRange(0, 2**32 - 1)
"""Of every `--seed`: what all random generators take."""

MODEL_OPTIONS = (
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:1, mps, or disk (layers come one at a time).",
    ),
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."),
    click.option("--gguf-file", metavar="NAME", help="A GGUF file inside the model's folder or repository."),
    click.option(
        "--allow-missing",
        is_flag=True,
        help="Load a checkpoint with missing weights; they stay random, and the trace records it.",
    ),
    click.option(
        "--attn-implementation",
        metavar="NAME",
        help="eager, sdpa, flash_attention_2, ...; default: the checkpoint's setting.",
    ),
    click.option(
        "--router",
        "routers",
        multiple=True,
        metavar="PATH,experts=E,...",
        help="Declare a router that is not found automatically; repeatable. See docs/routers.md.",
    ),
    click.option(
        "--experts", type=int, metavar="N", help="View a dense model as N emergent experts a layer."
    ),
    click.option(
        "--experts-used",
        type=int,
        metavar="K",
        help="Run only the top K groups per token. Default: run all of them and only record the scores.",
    ),
)


def model_options(command: Any) -> Any:
    """The options of every command that loads a model."""
    for option in reversed(MODEL_OPTIONS):
        command = option(command)
    return command


def sampling_options(command: Any) -> Any:
    """How the next token is chosen, of every command that generates."""
    for option in (
        click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the sampling."),
        click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True,
                     help="Sample from the most likely tokens whose probabilities sum to this."),
        click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True,
                     help="Sampling temperature; 0 takes the most likely token."),
    ):  # fmt: skip
        command = option(command)
    return command


def load(model: str, options: dict[str, Any], ranks: dict[str, Any] | None = None) -> Any:
    """A loaded model, viewed as emergent experts where asked. Takes its options out of `options`.

    Args:
        ranks: how it is laid over the processes of this run (`take_ranks`); one process only where left out.
    """
    if ranks is None:
        refuse_ranks()
    from ...tracer.prepared import OPTIONS, load_prepared

    given = {name: options.pop(name) for name in OPTIONS}
    if given["experts_used"] is not None and given["experts"] is None:
        raise click.UsageError("--experts-used needs --experts")
    from transformers.utils import logging as transformers_logging

    # Its bars would stand between the user and the one line that says what went wrong.
    transformers_logging.disable_progress_bar()
    if given["experts"] is not None:
        click.echo(f"splitting each feed-forward layer into {given['experts']} groups of neurons", err=True)
    loaded = load_prepared(model, **given, **(ranks or {}), progress=Lines("layers"))
    for note in loaded.notes:
        click.echo(f"warning: {note}", err=True)
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
