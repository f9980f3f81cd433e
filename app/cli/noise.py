"""The noise floor on the command line: measured for `doctor` and `trace`, and shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ..text.words import amount
from .model_options import load
from .output import as_text

if TYPE_CHECKING:
    from ...store.noise import Noise
    from ...tracer.prompts.prompt_set import PromptSet


def floor_for(loaded: Any, model: str, prompts: PromptSet, options: dict[str, Any]) -> Noise:
    """The noise floor of a loaded model.

    Args:
        options: with which it was loaded (a copy: `load` takes them out), and `chat` and `batch_tokens` where they were
            given.
    """
    from ...tracer.noise.measure import measure_noise

    given = {name: options[name] for name in ("chat", "batch_tokens") if name in options}
    tell = (lambda what: click.echo(f"noise floor: {what}", err=True)) if sys.stderr.isatty() else None
    return measure_noise(
        loaded.model,
        loaded.tokenizer,
        prompts,
        reload=lambda dtype: load(model, options | {"dtype": dtype}).model,
        progress=tell,
        **given,
    )


def show(noise: Noise) -> None:
    """Print a floor: a line on how it was measured, a row a cause, and what could not be varied."""
    click.echo(
        f"\nNoise floor on {amount(noise.prompts, 'prompt')} ({amount(noise.tokens, 'token')}), "
        f"{noise.dtype} on {noise.device}. "
        "Shares of decisions with other experts (95 % interval over prompts, from 5), of those with the same experts "
        "in another order, and of stored gate weights that change:"
    )
    click.echo(as_text(noise.table()), nl=False)
    for note in noise.notes:
        click.echo(f"note: {note}")
