"""Commands that torchrun starts in several processes: rank 0 speaks for all of them.

torchrun --nproc-per-node 8 -m moescope.app trace MODEL PROMPTS --out TRACE
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import click

from ...tracer.models.launched import launched, launched_rank

expert_parallel = click.option(
    "--expert-parallel",
    is_flag=True,
    help="On several devices: place whole experts on each, instead of a slice of every expert.",
)


def take_ranks(options: dict[str, Any]) -> dict[str, Any]:
    """How a model is laid over the processes of this run, for `load`. Takes its option out of `options`.

    Raises:
        UsageError: an option that one process only has a meaning for.
    """
    whole, ranks = options.pop("expert_parallel"), launched()
    if whole and ranks == 1:
        raise click.UsageError(
            "--expert-parallel needs several processes: torchrun --nproc-per-node N -m moescope.app ..."
        )
    for name in ("noise", "experts"):
        if ranks > 1 and options.get(name) is not None:
            raise click.UsageError(f"--{name} needs one process; torchrun started {ranks}")
    return {"ranks": ranks, "experts_whole": whole}


def refuse_ranks() -> None:
    """Raises ClickException where torchrun started a command that one process is meant for."""
    if (ranks := launched()) > 1:
        raise click.ClickException(
            f"torchrun started {ranks} processes; only trace and doctor lay a model over several"
        )


def together(run: Callable[[], int]) -> int:
    """Run a command in each process; its exit code. Only rank 0 is heard, and others that fail on their own."""
    if launched() == 1:
        return run()
    if launched_rank() == 0:
        return _ended(run())
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = run()
    if code and _distributed():
        lines = said.getvalue().splitlines()
        own = lines if os.environ.get("MOESCOPE_DEBUG") else lines[-1:]
        for line in own:
            if "rank 0 " not in line:
                print(f"rank {launched_rank()}: {line}", file=sys.stderr)
    return _ended(code)


def _distributed() -> bool:
    """Whether the processes have met; what fails before fails in all of them alike."""
    if "torch" not in sys.modules:
        return False
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def _ended(code: int) -> int:
    """Processes that have done their work part in order."""
    if code == 0 and _distributed():
        from torch import distributed

        distributed.destroy_process_group()
    return code
