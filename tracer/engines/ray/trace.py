"""One trace by many workers on a Ray cluster.

1. Prompts are dealt in lots, in a seeded random order, to actors that hold the model, in transformers or a vLLM.
2. A worker puts whole parts into the trace's folder, which every node must reach (a shared disk, or a URL as s3://).
3. A worker that dies is given up: what it had not committed is run by others, and a new worker takes its place.
4. Where this process dies, its actors end; committed prompts are kept, and `resume` continues.
"""

# Ray is not there where the types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....store.schema import DEFAULT_CAPTURE
from ...errors import TracerError
from ...generate.batch import Sampling
from ...prompts.prompt_set import PromptSet
from ...run.begin import describe
from ...run.part_writer import part_events_at
from ...run.progress import Progress, TraceSummary
from ..vllm.recording import check_wanted
from .desk import Desk, Standing
from .vllm_worker import VllmWorker, devices_of, in_an_actor
from .worker import Job, Worker, asked

DEATHS_A_WORKER = 3
"""A run ends where more workers have died than this many times their number: the model doesn't fit, most likely."""
LOOK_SECONDS = 1.0
CUT_SECONDS = 30.0
"""How long the process that holds the trace may be out of reach: Ray says so of a connection that broke off, too."""
ANSWER_SECONDS = 10.0


class RayError(TracerError):
    """Ray is not there, the cluster can't be reached, or its workers keep dying."""


@dataclass(frozen=True, kw_only=True)
class RaySummary(TraceSummary):
    """What a run on Ray has done."""

    workers: int
    deaths: int
    """Workers that died and were replaced."""


def trace_with_ray(
    model: str,
    prompts: PromptSet | str | os.PathLike[str] | Iterable[Mapping[str, Any] | str],
    out: str | os.PathLike[str],
    *,
    address: str = "auto",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    load: Mapping[str, Any] | None = None,
    vllm: Mapping[str, Any] | None = None,
    capture: Sequence[str] = DEFAULT_CAPTURE,
    batch_tokens: int = 8192,
    batch_size: int | None = None,
    max_new_tokens: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    steering: Any = None,
    resume: bool = False,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    weight_type: str = "float16",
    part_events: int | None = None,
) -> RaySummary:
    """Runs a model over a prompt set on a Ray cluster and writes one trace.

    Args:
        model: a folder that every node has, or a hub name.
        out: a folder that every node reaches under the same path, or a URL.
        address: of the cluster (`auto`, `HOST:PORT`), or `local` for one on this machine.
        workers: copies of the model; as many as the cluster has GPUs for if left out, one without GPUs.
        gpus_per_worker: 1 where the cluster has GPUs, else 0, if left out; for vLLM as many as it spreads over.
        load: options of `load_prepared`; for vLLM `dtype` and `trust_remote_code`.
        vllm: each worker runs a vLLM: `parallel` and `arguments` of `trace_with_vllm`. Without: transformers.
        The others are those of `run.trace.trace_prompts`.
    Raises:
        RayError: see there.
        TracerError, StoreError: as for a plain trace; committed prompts are kept, and `resume=True` continues.
    """
    prompt_set = PromptSet.of(prompts)
    chosen = prompt_set.chosen(limit, shard)
    if vllm is not None:
        check_wanted(chosen, capture, weight_type)
    ray, ours = _connected(address)
    url = os.fspath(out)
    url = url if "://" in url else os.path.abspath(url.removeprefix("file://"))
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    recording = {
        "capture": tuple(capture), "sampling": sampling, "chat": chat, "limit": limit, "shard": shard,
        "weight_type": weight_type,
    }  # fmt: skip
    if vllm is None:
        recording |= {"batch_tokens": batch_tokens, "batch_size": batch_size}
    else:
        recording |= {**dict(load or {}), **in_an_actor(vllm)}
    where = model if not os.path.isdir(model) else os.path.abspath(model)
    events = part_events_at(url) if part_events is None else part_events
    job = Job(where, dict(load or {}), recording, url, events)
    gpus, count = _shares(ray, workers, gpus_per_worker, 1 if vllm is None else devices_of(vllm))
    desk = _desk(ray, url, [prompt.id for prompt in chosen], count, describe(prompt_set), resume)
    crew = _Crew(
        ray, desk, job, ray.put(chosen), steering, gpus, count, Worker if vllm is None else VllmWorker
    )
    try:
        crew.work(len(chosen), progress)
        told = asked(desk.finish.remote(crew.seconds, count))
        return RaySummary(**told, deaths=crew.deaths)
    except ray.exceptions.RayActorError as error:
        raise RayError(
            "the process that holds the trace has died; committed prompts are kept; continue with --resume"
        ) from error
    finally:
        crew.dismiss()
        _close(ray, desk)
        if ours:
            ray.shutdown()


def _connected(address: str) -> tuple[Any, bool]:
    """Ray, and whether it was connected here."""
    try:
        import ray
    except ImportError:
        raise RayError("--ray needs Ray in this Python environment: pip install 'moescope[ray]'") from None
    if ours := not ray.is_initialized():
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="moescope")
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RayError(f"--ray {address}: no cluster can be reached: {first}") from None
    return ray, ours


def _check_answers(address: str) -> None:
    """Raises RayError where nothing listens at HOST:PORT; Ray itself would go on asking for minutes."""
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return  # `auto` and `local`, of which Ray tells at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RayError(f"--ray {address}: no cluster can be reached: {error}") from None


def _shares(ray: Any, workers: int | None, gpus_per_worker: float | None, usual: int) -> tuple[float, int]:
    """GPUs of a worker (`usual` if nothing was said), and how many workers there are."""
    there = ray.cluster_resources().get("GPU", 0)
    gpus = gpus_per_worker if gpus_per_worker is not None else (usual if there else 0)
    if gpus > there:
        raise RayError(f"a worker needs {gpus:g} GPU{'' if gpus == 1 else 's'}, the cluster has {there:g}")
    most = int(there // gpus) if gpus else None
    if workers is not None and most is not None and workers > most:
        raise RayError(
            f"{workers} workers with {gpus:g} GPUs each need {workers * gpus:g}, the cluster has {there:g}"
        )
    return gpus, workers or most or 1


def _desk(ray: Any, url: str, ids: list[str], workers: int, prompt_set: dict[str, Any], resume: bool) -> Any:
    """Beside this process, nowhere else: a lock on a local disk then dies with this machine, and no other node takes
    the trace along when it dies (where softly asked for, Ray at times puts it elsewhere)."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Desk).options(num_cpus=0, max_restarts=0, scheduling_strategy=here)
    return actor.remote(url, ids, workers, prompt_set, resume)


def _close(ray: Any, desk: Any) -> None:
    try:
        ray.get(desk.close.remote(), timeout=60)
    except ray.exceptions.RayError:
        return  # it has died; its lock with it
    ray.kill(desk)


class _Crew:
    """The workers of one run."""

    def __init__(
        self, ray: Any, desk: Any, job: Job, prompts: Any, steering: Any, gpus: float, count: int,
        kind: type,
    ) -> None:  # fmt: skip
        self._ray, self._desk, self._arguments, self._kind = ray, desk, (job, prompts, steering), kind
        self._gpus, self._count = gpus, count
        self._running: dict[Any, tuple[str, Any]] = {}
        self._idle: list[tuple[str, Any]] = []
        self._hired = self.deaths = 0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def work(self, prompts: int, progress: Callable[[Progress], None] | None) -> None:
        """Until every prompt is in the trace."""
        for _ in range(min(self._count, prompts)):
            self._hire()
        while True:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK_SECONDS)
            for reference in ready:
                self._ended(reference)
            standing: Standing | None = self._of_desk("standing")
            if standing is not None:
                if progress is not None:
                    progress(_told(standing, prompts, self.seconds))
                if not standing.left:
                    return
                self._employ(standing)

    def _of_desk(self, method: str, *args: Any) -> Any:
        """An answer of the desk to what may be asked twice; a connection that broke off is made again."""
        end = time.monotonic() + CUT_SECONDS
        while True:
            try:
                return asked(getattr(self._desk, method).remote(*args))
            except self._ray.exceptions.ActorUnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(min(LOOK_SECONDS, 0.5))

    def dismiss(self) -> None:
        for _, actor in (*self._running.values(), *self._idle):
            self._ray.kill(actor)

    def _hire(self) -> None:
        name = f"worker-{self._hired}"
        self._hired += 1
        actor = self._ray.remote(self._kind).options(num_cpus=1, num_gpus=self._gpus, max_restarts=0)
        self._set_to_work(name, actor.remote(name, self._desk, *self._arguments))

    def _set_to_work(self, name: str, actor: Any) -> None:
        self._running[actor.run.remote()] = (name, actor)

    def _ended(self, reference: Any) -> None:
        name, actor = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            asked(reference)
        except (
            errors.RayActorError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.WorkerCrashedError,
        ):
            self._ray.kill(actor)  # where it was only out of reach
            self._buried(name)
        else:
            self._idle.append((name, actor))

    def _buried(self, name: str) -> None:
        self._of_desk("gone", name)
        self.deaths += 1
        if self.deaths > DEATHS_A_WORKER * self._count:
            raise RayError(
                f"{self.deaths} workers have died: out of memory? Committed prompts are kept; continue with --resume"
            )
        self._hire()

    def _employ(self, standing: Standing) -> None:
        """A worker that has finished takes over prompts of workers that have died since."""
        if standing.waiting:
            for name, actor in self._idle:
                self._set_to_work(name, actor)
            self._idle = []
        elif not self._running:
            raise RayError(f"{standing.left:,} prompts were run and not committed; continue with --resume")


def _told(standing: Standing, prompts: int, seconds: float) -> Progress:
    ran = max(1, standing.ran)
    return Progress(
        prompts=standing.ran,
        total_prompts=prompts,
        tokens=standing.tokens,
        total_tokens=round(standing.tokens * prompts / ran),
        seconds=seconds,
    )
