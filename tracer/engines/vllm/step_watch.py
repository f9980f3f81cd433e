"""Which row of a step is which request and position, told by vLLM's own model runner.

V1 runs the model in `_model_forward`, while `input_batch` and `query_start_loc` describe the step. V2 describes it by
what `prepare_inputs` returns inside `execute_model`; warm-up steps and the dummy steps of data parallelism prepare
nothing, and are left out. Nothing here imports vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One forward pass over rows of several requests."""

    requests: list[str]
    start: np.ndarray
    """(requests + 1,): request i has the rows from start[i] to start[i + 1]."""
    positions: Tensor
    input_ids: Tensor | None

    @property
    def rows(self) -> int:
        return int(self.start[-1])


class Watcher(Protocol):
    """Is told of every step."""

    def scheduled(self, output: Any) -> None: ...
    def before(self, step: Step) -> None: ...
    def after(self, step: Step) -> None: ...


def watch(runner: Any, watcher: Watcher) -> None:
    """Tell `watcher` of every step from now on."""
    if hasattr(runner, "_model_forward"):
        _watch_first(runner, watcher)
    else:
        _watch_second(runner, watcher)
    execute = runner.execute_model

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        watcher.scheduled(scheduler_output)
        return execute(scheduler_output, *args, **kwargs)

    runner.execute_model = execute_model


def _watch_first(runner: Any, watcher: Watcher) -> None:
    forward, execute = runner._model_forward, runner.execute_model
    scheduled = 0

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal scheduled
        scheduled = scheduler_output.total_num_scheduled_tokens
        try:
            return execute(scheduler_output, *args, **kwargs)
        finally:
            scheduled = 0

    def model_forward(input_ids: Any = None, positions: Any = None, *args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        if not scheduled:  # a dummy step, while the batch still describes the step before
            return forward(input_ids, positions, *args, **kwargs)
        start = runner.query_start_loc.np[: batch.num_reqs + 1].copy()
        step = Step(list(batch.req_ids[: batch.num_reqs]), start, positions, input_ids)
        return _around(step, watcher, lambda: forward(input_ids, positions, *args, **kwargs))

    runner._model_forward, runner.execute_model = model_forward, execute_model


def _watch_second(runner: Any, watcher: Watcher) -> None:
    prepare, execute = runner.prepare_inputs, runner.execute_model
    prepared: list[Step] = []

    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        batch = prepare(*args, **kwargs)
        start = np.asarray(batch.query_start_loc_np[: batch.num_reqs + 1]).copy()
        prepared.append(Step(list(batch.req_ids[: batch.num_reqs]), start, batch.positions, batch.input_ids))
        watcher.before(prepared[-1])
        return batch

    def execute_model(*args: Any, **kwargs: Any) -> Any:
        prepared.clear()
        output = execute(*args, **kwargs)
        for step in prepared:
            watcher.after(step)
        return output

    runner.prepare_inputs, runner.execute_model = prepare_inputs, execute_model


def _around(step: Step, watcher: Watcher, run: Callable[[], Any]) -> Any:
    if not step.requests:
        return run()
    watcher.before(step)
    output = run()
    watcher.after(step)
    return output
