"""`moescope offload`: hit rates of expert caches and of predictors, and which sequences share a batch."""

from __future__ import annotations

from dataclasses import replace

import click

from .decision_options import Decision, decision, say
from .output import open_with_warnings, write_table


@click.command("offload")
@click.argument("trace")
@click.option(
    "--slots", default="4,8,16", show_default=True, help="Experts per layer that fit into fast memory."
)
@click.option(
    "--expert-mb",
    type=click.FloatRange(min=0, min_open=True),
    help="Size of one expert in MB. Default: from the expert sheet.",
)
@click.option(
    "--batch",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Sequences per batch when regrouping.",
)
@click.option(
    "--compute-ms",
    type=click.FloatRange(0),
    help="Measured compute time of one layer, in ms; with --copy-ms.",
)
@click.option(
    "--copy-ms",
    type=click.FloatRange(0),
    help="Measured time to copy one layer's experts, in ms; with --compute-ms: the ring schedule.",
)
@decision("The curve as .csv, .json or .parquet.", json_help="Everything as JSON on stdout.")
def offload_command(
    trace: str, slots: str, expert_mb: float | None, batch: int, compute_ms: float | None, copy_ms: float | None,
    asked: Decision,
) -> None:  # fmt: skip
    """Hit rates of expert caches and of predictors on held-out prompts, and which sequences go together.

    \b
    Example:
      moescope offload my-trace --slots 4,8,16 --expert-mb 9.4
      moescope offload my-trace --slots 8 --compute-ms 0.6 --copy-ms 4
    """
    from ...store.errors import DecisionRefused
    from ...store.notes import notes_of
    from ..sentences.deploy import offload_answer, regrouping_answer, ring_answer

    if (compute_ms is None) != (copy_ms is None):
        raise click.UsageError("--compute-ms and --copy-ms go together")
    opened = open_with_warnings(trace)
    size = None if expert_mb is None else expert_mb * 1e6
    curve = opened.view("offload", slots=slots, expert_bytes=size, fit_where=asked.fit_where, **asked.common)
    if not curve.num_rows:
        raise DecisionRefused(notes_of(curve)[0])
    groups = opened.view("regrouping", batch=batch, **asked.common)
    said = [offload_answer(curve), regrouping_answer(groups, batch)]
    if compute_ms is not None and copy_ms is not None:
        said.append(ring_answer(len(opened.select_routers(None, asked.stream)), compute_ms, copy_ms))
    if asked.out is not None:
        write_table(curve, None, asked.out)
    say(
        {"offload": curve, "regrouping": groups},
        "\n".join(said),
        curve.drop_columns(["hits", "accesses"]),
        replace(asked, out=None),
    )
