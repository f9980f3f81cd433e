"""`moescope offload`: how much of what tokens need a cache of experts holds."""

from __future__ import annotations

from pathlib import Path

import click

from .decision_options import FIT_WHERE, LAYERS, SEED, STREAM, WHERE, say
from .output import open_with_warnings, write_table
from .view_options import conditions


@click.command("offload")
@click.argument("trace")
@click.option(
    "--slots", default="4,8,16", show_default=True, help="Experts of a layer that fast memory holds."
)
@click.option(
    "--expert-mb",
    type=click.FloatRange(min=0, min_open=True),
    help="Size of an expert. Default: from the expert sheet.",
)
@click.option(
    "--batch",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Sequences in a batch, for regrouping.",
)
@click.option(
    "--compute-ms", type=click.FloatRange(0), help="With --copy-ms: time that you measured for a layer."
)
@click.option(
    "--copy-ms",
    type=click.FloatRange(0),
    help="Time that you measured to copy a layer's experts in: shows the ring schedule.",
)
@FIT_WHERE
@WHERE
@LAYERS
@STREAM
@SEED
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The curve as .csv, .json or .parquet.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON on stdout.")
def offload_command(
    trace: str, slots: str, expert_mb: float | None, batch: int, compute_ms: float | None, copy_ms: float | None,
    fit_where: tuple[str, ...], where: tuple[str, ...], layers: str | None, stream: str, seed: int, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Hit rates of expert caches and of predictors on held-out prompts, and which sequences go together.

    \b
    Example:
      moescope offload my-trace --slots 4,8,16 --expert-mb 9.4
      moescope offload my-trace --slots 8 --compute-ms 0.6 --copy-ms 4
    """
    from ..sentences.deploy import offload_answer, regrouping_answer, ring_answer

    if (compute_ms is None) != (copy_ms is None):
        raise click.UsageError("--compute-ms and --copy-ms go together")
    opened = open_with_warnings(trace)
    common = {
        "layers": layers,
        "stream": stream,
        "where": conditions(where),
        "seed": seed,
    }
    size = None if expert_mb is None else expert_mb * 1e6
    curve = opened.view("offload", slots=slots, expert_bytes=size, fit_where=conditions(fit_where), **common)
    groups = opened.view("regrouping", batch=batch, **common)
    said = [offload_answer(curve), regrouping_answer(groups, batch)]
    if compute_ms is not None and copy_ms is not None:
        said.append(ring_answer(len(opened.select_routers(None, stream)), compute_ms, copy_ms))
    if out is not None:
        write_table(curve, None, out)
    say(
        {"offload": curve, "regrouping": groups},
        "\n".join(said),
        curve.drop_columns(["hits", "accesses"]),
        as_json,
        None,
    )
