"""`moescope pick`: prompts that reach all experts evenly, for calibrating a quantiser."""

from __future__ import annotations

import click

from ...store.files.whole import write_whole
from .decision_options import Decision, decision, say
from .output import open_with_warnings


@click.command("pick")
@click.argument("trace")
@click.option(
    "--prompts", default=128, show_default=True, type=click.IntRange(1), help="Number of prompts to pick."
)
@decision("Write the prompts.", metavar="FILE.jsonl", fits=False)
def pick_command(trace: str, prompts: int, asked: Decision) -> None:
    """Pick a calibration set that uses experts evenly; compare it with random sets of the same size.

    \b
    Example:
      moescope pick my-trace --prompts 128 --out calib.jsonl
    """
    from ...store.views.deploy.calibration import picked_prompts, prompt_lines
    from ..sentences.deploy import calibration_answer

    opened = open_with_warnings(trace)
    rows, _ = picked_prompts(opened, prompts, layers=asked.layers, stream=asked.stream, tokens=asked.tokens)
    table = opened.view("calibration-balance", sizes=str(prompts), **asked.common)
    if asked.out is not None:
        write_whole(asked.out, prompt_lines(opened, rows))
    say({"calibration": table}, calibration_answer(table), table, asked)
