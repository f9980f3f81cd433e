"""moescope's part inside a vLLM worker. vLLM loads it by name:

    LLM(model, worker_extension_cls="moescope.tracer.engines.vllm.worker.RoutingWorker", enable_prefix_caching=False)

Importing this module makes every worker set its taps as soon as its model is loaded, before anything is warmed up,
compiled or captured in a CUDA graph. The methods are called by name through `collective_rpc`; what they return is
plain, and a refusal is an answer (`refused`), so that its words reach the user.
"""

# vLLM is not there where the types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.v1.worker.gpu_worker import Worker

from ....store.schema import RouterSpec
from ...errors import SteeringError
from ...steering.read import read_rules
from ...steering.rules import Rule
from .checks import KernelCheck, contradictions, corrected, normalises, refused
from .orphans import end_with
from .rotation import rotation_problems
from .spool import Order, Spool, StepRows, put_problem
from .steer import StepRequest, StepSteering, unsteerable
from .step_watch import Step, watch
from .taps import RouterTap, TapBuffers, all_rows, to_host

REQUEST = "moescope"
"""Entry of a request's `extra_args`: {"number": N, "rules": [...], "prompt_length": T}, as JSON."""


def own_rows_of(rank: int) -> Any:
    """Which of the rows that a router sees are those of this data-parallel rank."""

    def own(count: int) -> slice:
        from vllm.forward_context import get_forward_context

        metadata = get_forward_context().dp_metadata
        if metadata is None:
            return all_rows(count)
        counts = metadata.num_tokens_across_dp_cpu.tolist()
        if count == counts[rank]:
            return all_rows(count)
        if count == sum(counts):  # all ranks' rows were gathered before the choice
            return slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        raise RuntimeError(
            f"a router saw {count} rows, this rank has {counts[rank]} of {sum(counts)}, so rows can't be "
            "assigned to tokens"
        )

    return own


class Routing:
    """Everything that moescope holds in one worker: taps, rows, steering."""

    def __init__(self, worker: Any) -> None:
        self.config = worker.vllm_config
        model, runner = worker.model_runner.get_model(), worker.model_runner
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, MoERunner)}
        self.problems = self._problems(model)
        self.specs = [] if self.problems else [_spec(name, layer) for name, layer in self.layers.items()]
        self.routers = [layer.router for layer in self.layers.values()]
        self.spool: Spool | None = None
        """Where rows go; None while none are kept."""
        self.folder = Path()
        self.step_problem: str | None = None
        self.requests: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, tuple[Rule, ...]] = {}
        if not self.problems:
            self._set_taps(worker)
            watch(runner, self)

    def _problems(self, model: Any) -> list[str]:
        architecture = type(model).__name__
        parallel = self.config.parallel_config
        hf_config = self.config.model_config.hf_text_config
        if parallel.pipeline_parallel_size > 1:
            return ["pipeline parallelism splits the layers over workers: use tensor parallelism"]
        if getattr(parallel, "enable_dbo", False):
            return ["dual batch overlap runs two half steps at once: start vLLM without enable_dbo"]
        if not self.layers:
            return [f"{architecture} has no Mixture-of-Experts layer that vLLM knows"]
        found = [refused(name, layer, BaseRouter) for name, layer in self.layers.items()]
        known = [text for text in found if text]
        for name, layer in self.layers.items() if not known else ():
            known += contradictions(hf_config, name, layer.router, architecture)
        if not known and getattr(self.config.model_config, "use_mla", False):
            known = rotation_problems(model, architecture)
        return known

    def _set_taps(self, worker: Any) -> None:
        rows = self.config.scheduler_config.max_num_batched_tokens
        self.buffers = TapBuffers(self.specs, rows, worker.device)
        own = own_rows_of(self.config.parallel_config.data_parallel_rank)
        for number, layer in enumerate(self.layers.values()):
            RouterTap(self.buffers, number, own).stand_on(layer.router, layer.routed_experts)
        self.check = KernelCheck(self.buffers, self.routers)
        self.scales = [float(getattr(m, "routed_scaling_factor", 1.0) or 1.0) for m in self.layers.values()]

    def scheduled(self, output: Any) -> None:
        """A step was planned: note the requests that are new in it."""
        for new in output.scheduled_new_reqs:
            asked = ((new.sampling_params and new.sampling_params.extra_args) or {}).get(REQUEST)
            if asked and new.req_id not in self.requests:
                self.requests[new.req_id] = known = json.loads(asked)
                if known.get("rules"):
                    self.rules[new.req_id] = read_rules(known["rules"])
        for gone in output.finished_req_ids:
            self.rules.pop(gone, None)
            self.requests.pop(gone, None)

    def before(self, step: Step) -> None:
        if not self.buffers.active:
            return
        self.check.begin_step()
        self.buffers.begin_step()
        self.buffers.steering = self._steering(step)

    def _steering(self, step: Step) -> StepSteering | None:
        asked = [
            StepRequest(
                rules, int(step.start[i]), int(step.start[i + 1]), self.requests[name]["prompt_length"]
            )
            for i, name in enumerate(step.requests)
            if (rules := self.rules.get(name))
        ]
        if not asked:
            return None
        return StepSteering(
            asked, step.positions[: step.rows], [normalises(router) for router in self.routers]
        )

    def after(self, step: Step) -> None:
        if not self.buffers.active:
            return
        if self.step_problem is None:
            if step.rows > self.buffers.rows:
                self.step_problem = (
                    f"a step has {step.rows} rows, more than the {self.buffers.rows} that were planned"
                )
            else:
                self.step_problem = self.check.problem(step.rows)
        self.buffers.steering = None
        if self.spool is not None and self.step_problem is None:
            self._keep(step, self.spool)

    def _keep(self, step: Step, spool: Spool) -> None:
        rows, buffers = step.rows, self.buffers
        number_R = [self.requests.get(name, {}).get("number", -1) for name in step.requests]
        tokens = step.positions.new_full((rows,), -1) if step.input_ids is None else step.input_ids[:rows]
        copies = [
            to_host(values)
            for values in (
                step.positions[:rows], tokens, buffers.ids_LNK[:, :rows], buffers.weights_LNK[:, :rows],
                buffers.logits_LNE[:, :rows],
            )
        ]  # fmt: skip
        ready = torch.cuda.current_stream().record_event() if step.positions.is_cuda else None
        request_N = np.repeat(np.array(number_R, np.int64), np.diff(step.start))
        spool.add(StepRows(request_N, *copies, ready=ready))


def _spec(name: str, layer: Any) -> RouterSpec:
    router = layer.router
    custom = getattr(router, "custom_routing_function", None) is not None
    return RouterSpec(
        layer=int(layer.layer_id),
        num_experts=int(router.global_num_experts),
        top_k=int(router.top_k),
        router=name,
        experts=f"{name}.routed_experts",
        scoring="none" if custom else str(getattr(router, "scoring_func", "softmax")),
        found_by="vllm",
    )


class RoutingWorker:
    """Mixed into vLLM's worker class; every method is called by its name on all workers."""

    def moescope_begin(self, folder: str | None, capture: list[str], driver: list[Any]) -> dict[str, Any]:
        """What this worker has; with a folder, rows are kept from now on and go to files there.

        Args:
            driver: the process that asks, as `orphans.this_process` tells it.
        """
        routing: Routing = self._moescope  # type: ignore[attr-defined]
        end_with(*driver)
        parallel = routing.config.parallel_config
        from vllm.distributed.parallel_state import get_tp_group

        writes = bool(get_tp_group().is_first_rank)
        if folder is not None and writes and not routing.problems:
            routing.spool = Spool(routing.specs, capture, routing.scales)
            routing.folder = Path(folder)
        return {
            "refused": routing.problems[:1],
            "routers": [spec.to_json() for spec in routing.specs],
            "corrected": [corrected(router) for router in routing.routers],
            "dtype": str(routing.config.model_config.dtype).removeprefix("torch."),
            "writes": writes,
            "data_rank": int(parallel.data_parallel_rank),
            "runner": type(self.model_runner).__module__,  # type: ignore[attr-defined]
        }

    def moescope_record(self, active: bool) -> None:
        """Let the taps work, or pass everything by, for a benchmark."""
        self._moescope.buffers.active = active  # type: ignore[attr-defined]

    def moescope_write(self, number: int, classes: dict[str, list[int]]) -> dict[str, Any]:
        """Order a file with the rows of finished requests; it appears when it is whole."""
        routing: Routing = self._moescope  # type: ignore[attr-defined]
        state = self.moescope_state()
        if routing.spool is not None:
            rank = routing.config.parallel_config.data_parallel_rank
            path = routing.folder / f"{number:06d}-{rank:03d}.npz"
            if state["problem"] is None:
                routing.spool.add(Order(path, {int(key): np.array(value) for key, value in classes.items()}))
            else:  # of several data-parallel ranks only the first one's answer reaches the caller
                put_problem(path, state["problem"])
        return state

    def moescope_state(self) -> dict[str, Any]:
        """What has gone wrong since the beginning, and how many steps were compared with the experts' kernel."""
        routing: Routing = self._moescope  # type: ignore[attr-defined]
        problem, check = routing.step_problem, routing.check
        if problem is None and routing.spool is not None and routing.spool.failure is not None:
            problem = f"routing could not be kept: {routing.spool.failure}"
        return {"problem": problem, "steps": check.steps, "checked": check.checked}

    def moescope_unsteerable(self, rules: list[dict[str, Any]]) -> list[str]:
        """What of these rules can't be had in this model."""
        routing: Routing = self._moescope  # type: ignore[attr-defined]
        try:
            read = read_rules(rules)
        except SteeringError as error:
            return [str(error)]
        return unsteerable(read, routing.specs, [corrected(router) for router in routing.routers])


def _with_taps(load: Any) -> Any:
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = load(self, *args, **kwargs)
        self._moescope = Routing(self)
        return result

    return load_model


if not hasattr(Worker, "_moescope_taps"):
    Worker.load_model, Worker._moescope_taps = _with_taps(Worker.load_model), True
