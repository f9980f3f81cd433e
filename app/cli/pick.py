"""`moescope pick`: prompts that reach all experts evenly, for calibrating a quantiser."""

from __future__ import annotations

from pathlib import Path

import click

from ...store.files.whole import write_whole
from .decision_options import LAYERS, SEED, STREAM, WHERE, say
from .output import open_with_warnings
from .view_options import conditions


@click.command("pick")
@click.argument("trace")
@click.option("--prompts", default=128, show_default=True, type=click.IntRange(1), help="How many.")
@WHERE
@LAYERS
@STREAM
@SEED
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.jsonl", help="Write the prompts."
)
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")
def pick_command(
    trace: str, prompts: int, where: tuple[str, ...], layers: str | None, stream: str, seed: int, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """A calibration set that uses experts evenly, beside random sets of the same size.

    \b
    Example:
      moescope pick my-trace --prompts 128 --out calib.jsonl
    """
    from ...store.read.token_filter import TokenFilter
    from ...store.views.deploy.calibration import picked_prompts, prompt_lines
    from ..sentences.deploy import calibration_answer

    opened, tokens = open_with_warnings(trace), TokenFilter(where=conditions(where))
    rows, _ = picked_prompts(opened, prompts, layers=layers, stream=stream, tokens=tokens)
    table = opened.view(
        "calibration-balance",
        sizes=str(prompts),
        layers=layers,
        stream=stream,
        where=conditions(where),
        seed=seed,
    )
    if out is not None:
        write_whole(out, prompt_lines(opened, rows))
    say({"calibration": table}, calibration_answer(table), table, as_json, out)
