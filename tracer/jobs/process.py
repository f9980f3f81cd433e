"""The process of one job: `python -m moescope.tracer.jobs.process FOLDER`; see `jobs`."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.errors import StoreError
from ...store.write.target import check_target
from ..errors import TracerError
from ..prompts.prompt import PromptSetError
from ..prompts.prompt_set import PromptSet
from .jobs import GO, Job, Status, write_status

if TYPE_CHECKING:
    from ..run.estimate import Estimate

log = logging.getLogger("moescope.job")
STATUS_SECONDS = 0.25
POLL_SECONDS = 0.1
PATIENCE_S = 3600.0
"""How long a trace waits to be told to go on; it holds the model meanwhile."""


def main(folder: Path) -> int:
    """Run the job; its exit code."""
    status = Status(state="loading")
    write_status(folder, status)
    try:
        status.summary = run(folder, status)
        status.state = "complete"
    except KeyboardInterrupt:
        status.state = "declined" if status.state == "asking" else "cancelled"
    except (TracerError, StoreError, PromptSetError) as error:
        log.exception("the trace failed")
        status.state, status.error = "failed", str(error)
    except Exception as error:
        log.exception("the trace failed")
        status.state, status.error = "failed", f"{type(error).__name__}: {error}"
    write_status(folder, status)
    return 0 if status.state == "complete" else 1


def run(folder: Path, status: Status) -> dict[str, Any]:
    """Load, trace, and keep the status file true."""
    asked = Job(folder).asked
    options = dict(asked["options"])
    prompts = PromptSet.from_file(asked["prompts"])
    if name := asked.get("prompts_name"):
        prompts = replace(prompts, name=name)
    check_target(asked["out"], resume=options.get("resume", False))
    ask = options.pop("ask", False)
    fresh = not (Path(asked["out"]) / "trace.json").exists()
    from ..prepared import OPTIONS, load_prepared
    from ..run.trace import Progress, trace_prompts
    from ..steering.profile import Steering

    def split(layers: int, total: int) -> None:
        status.state, status.layers, status.total_layers = "splitting", layers, total
        write_status(folder, status)

    wanted = {name: options.pop(name) for name in OPTIONS if name in options}
    loaded = load_prepared(asked["model"], **wanted, progress=split)
    noise = options.pop("noise_prompts", None)
    if noise is not None:
        from ..noise.measure import measure_noise

        log.info("measuring the noise floor on the first %s prompts", noise)
        status.state = "measuring"
        write_status(folder, status)
        given = {name: options[name] for name in ("chat", "batch_tokens") if name in options}
        floor = measure_noise(
            loaded.model, loaded.tokenizer, prompts.limit(noise), **given,
            reload=lambda dtype: load_prepared(asked["model"], **wanted | {"dtype": dtype}).model,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        options["noise"] = floor.to_json()
    profile = options.pop("steering", None)
    last = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < STATUS_SECONDS and progress.prompts < progress.total_prompts:
            return
        last = time.monotonic()
        status.state = "running"
        status.prompts, status.total_prompts = progress.prompts, progress.total_prompts
        status.tokens, status.total_tokens = progress.tokens, progress.total_tokens
        status.tokens_per_s, status.eta_s = progress.tokens_per_second, progress.eta_seconds
        status.worked, status.generating = progress.share, progress.generating
        status.step, status.steps = progress.step, progress.steps
        write_status(folder, status)

    try:
        return trace_prompts(
            loaded.model,
            loaded.tokenizer,
            prompts,
            asked["out"],
            card=loaded.card,
            steering=None if profile is None else Steering.from_json(profile),
            progress=tell,
            consider=(lambda estimate: _consider(folder, status, estimate)) if ask else None,
            **options,
        ).to_json()
    except KeyboardInterrupt:
        if status.state == "asking" and fresh:
            shutil.rmtree(asked["out"])
        raise


def _consider(folder: Path, status: Status, estimate: Estimate) -> bool:
    """Ask whoever started the trace whether to go on; a `cancel` interrupts this. Nobody answers: not."""
    status.state, status.eta_s, status.bytes = "asking", estimate.seconds, estimate.bytes
    write_status(folder, status)
    until = time.monotonic() + PATIENCE_S
    while not (folder / GO).exists():
        if time.monotonic() > until:
            raise KeyboardInterrupt
        time.sleep(POLL_SECONDS)
    status.state = "running"
    write_status(folder, status)
    return True


if __name__ == "__main__":
    # Ignored from birth where the app runs in the background of a shell script: cancelling would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(main(Path(sys.argv[1])))
