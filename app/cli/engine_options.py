"""Options of the commands that can run a model inside an engine: which one, and how it is laid over devices."""

from __future__ import annotations

import json
from typing import Any

import click

from .model_options import MODEL_OPTIONS

ENGINES = ("transformers", "vllm")


def _names(options: tuple[Any, ...]) -> set[str]:
    def command() -> None: ...

    for option in options:
        option(command)
    return {parameter.name for parameter in command.__click_params__}  # type: ignore[attr-defined]


OF_A_PLAIN_RUN = {"batch_size", "batch_tokens", "noise", "reproducible"}
NOT_THERE = (_names(MODEL_OPTIONS) - {"dtype", "trust_remote_code"}) | OF_A_PLAIN_RUN
"""Options of a plain run that an engine has no place for."""


def _arguments(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{value!r}; it takes name=value")
        try:
            found[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            found[name.replace("-", "_")] = text
    return found


ENGINE_OPTIONS = (
    click.option("--engine", type=click.Choice(ENGINES), default="transformers", show_default=True,
                 help="What runs the model; vllm needs vLLM installed (docs/scale.md)."),
    click.option("--tensor-parallel", type=click.IntRange(1), default=1, show_default=True, metavar="N",
                 help="vllm: devices that share each layer."),
    click.option("--data-parallel", type=click.IntRange(1), default=1, show_default=True, metavar="N",
                 help="vllm: copies of the attention layers, each with its own requests."),
    click.option("--engine-arg", "engine_args", multiple=True, metavar="NAME=VALUE", callback=_arguments,
                 help="A further setting of vLLM's engine, such as max_model_len=4096. Repeatable."),
)  # fmt: skip


def engine_options(command: Any) -> Any:
    """`--engine` and what belongs to it."""
    for option in reversed(ENGINE_OPTIONS):
        command = option(command)
    return command


def take_engine(options: dict[str, Any]) -> dict[str, Any] | None:
    """Keyword arguments of a run inside vLLM; None for a plain run. Takes the engine's options out of `options`.

    Raises:
        UsageError: an option of one kind of run with the other.
    """
    engine = options.pop("engine")
    tensor, data = options.pop("tensor_parallel"), options.pop("data_parallel")
    arguments = options.pop("engine_args")
    if engine == "transformers":
        if tensor > 1 or data > 1 or arguments:
            raise click.UsageError(
                "--tensor-parallel, --data-parallel and --engine-arg need --engine vllm; with transformers, start the "
                "command by torchrun (docs/scale.md)"
            )
        return None
    context = click.get_current_context()
    for name in options.keys() & NOT_THERE:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} does not apply to --engine vllm")
        options.pop(name)
    from ...tracer.engines.vllm.releases import version_note, vllm_version
    from ...tracer.engines.vllm.running import Parallel

    if note := version_note(vllm_version()):
        click.echo(f"note: {note}", err=True)
    return {"parallel": Parallel(tensor, data), "arguments": arguments}
