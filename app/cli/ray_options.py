"""Options of a trace by many workers on a Ray cluster."""

from __future__ import annotations

from typing import Any

import click

from .ranks import refuse_ranks

RAY_OPTIONS = (
    click.option("--ray", metavar="ADDRESS",
                 help="Workers on a Ray cluster: auto, HOST:PORT, or local for one on this machine (docs/scale.md)."),
    click.option("--workers", type=click.IntRange(1), metavar="N",
                 help="--ray: copies of the model. Default: as many as the cluster has GPUs for."),
    click.option("--gpus-per-worker", type=click.FloatRange(0), metavar="G",
                 help="--ray: GPUs of each. Default: 1 where the cluster has any; with vllm its parallel devices."),
)  # fmt: skip
ALONE = ("noise", "expert_parallel")
"""Options that a run on a cluster has no place for."""


def ray_options(command: Any) -> Any:
    """`--ray` and what belongs to it."""
    for option in reversed(RAY_OPTIONS):
        command = option(command)
    return command


def take_ray(options: dict[str, Any]) -> dict[str, Any] | None:
    """Keyword arguments of a run on Ray; None for any other. Takes its options out of `options`.

    Raises:
        UsageError: options that don't go together.
    """
    given = {name: options.pop(name) for name in ("workers", "gpus_per_worker")}
    if (address := options.pop("ray")) is None:
        if any(value is not None for value in given.values()):
            raise click.UsageError("--workers and --gpus-per-worker need --ray")
        return None
    refuse_ranks()
    for name in ALONE:
        if options.pop(name, None):
            raise click.UsageError(f"--{name.replace('_', '-')} does not apply to --ray")
    return {"address": address, **given}
