"""`moescope weigh`: what weights and outputs say of each expert, into the trace."""

from __future__ import annotations

import json
from typing import Any

import click

from ..text.words import amount
from .model_options import load, model_options
from .output import Lines, open_with_warnings


def _names(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    from ...tracer.weigh import WHAT

    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names or set(names) - set(WHAT):
        raise click.BadParameter(f"{value!r}; it takes {','.join(WHAT)}")
    return names


def _widths(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        widths = tuple(sorted({int(width) for width in value.split(",")}))
    except ValueError:
        widths = ()
    if not widths or not 1 <= widths[0] <= widths[-1] <= 16:
        raise click.BadParameter(f"{value!r}; it takes bits from 1 to 16, such as 2,3,4")
    return widths


@click.command("weigh")
@click.argument("model")
@click.option(
    "--trace", required=True, metavar="TRACE", help="A trace of this model; the sheet is written into it."
)
@click.option(
    "--what", default="norms,outliers,spectrum,outputs,quantisation,similarity", show_default=True, callback=_names,
    help="What to measure.",
)  # fmt: skip
@click.option(
    "--bits",
    default="2,3,4",
    show_default=True,
    callback=_widths,
    help="Bit widths for which rounding errors are measured.",
)
@click.option(
    "--tokens",
    default=4096,
    show_default=True,
    type=click.IntRange(1),
    help="Number of recorded tokens to run again.",
)
@click.option(
    "--probe",
    default=128,
    show_default=True,
    type=click.IntRange(1),
    help="How many of these tokens are sent through every expert.",
)
@click.option(
    "--group",
    default=128,
    show_default=True,
    type=click.IntRange(1),
    help="Quantisation group size: inputs that share one scale.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
def weigh_command(
    model: str, trace: str, what: tuple[str, ...], bits: tuple[int, ...], tokens: int, probe: int, group: int,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Weigh the experts of a model on a trace's own tokens: norms, REAP, rounding errors, likeness.

    \b
    Example:
      moescope weigh sample_data/model --trace my-trace --bits 2,3,4
    """
    from ...tracer.weigh import weigh

    opened = open_with_warnings(trace)
    loaded = load(model, options)
    made = weigh(
        loaded.model,
        opened,
        what=what,
        bits=bits,
        tokens=tokens,
        probe=probe,
        group=group,
        progress=Lines("routers"),
    )
    if as_json:
        click.echo(json.dumps({"routers": made, "trace": trace}))
        return
    click.echo(
        f"{amount(made, 'router')} weighed → {trace}"
        if made
        else f"nothing to do: {trace} has this sheet already"
    )
