"""Started by a Python with Ray: a cluster of two nodes on this machine, and one trace on it, with accidents.

python two_nodes.py MODEL PROMPTS OUT ACCIDENT [vllm]; ACCIDENT is `none`, `worker` (all that run are killed),
`node` (a whole one is, with a worker that has committed) or `driver` (this process is killed, midway). Prints a JSON
line: the summary, and who was killed. With `vllm` each worker runs a vLLM.
"""

# Ray is not there where the types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
import signal
import sys
import time
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from moescope.tracer.engines.ray import trace as ray_trace
from moescope.tracer.engines.ray.desk import Desk
from moescope.tracer.run.progress import Progress

model, prompts, out, accident, *engine = sys.argv[1:]
PATIENCE, BEGUN = 120.0, time.monotonic()
"""Seconds in which both workers have begun, or one goes on alone."""
BUSY = {"health_check_timeout_ms": 60_000}
"""Ray otherwise takes a node of a busy machine for dead."""
killed: list[int] = []
desks: list[Any] = []


class EvenDesk(Desk):
    """No worker gets more than a quarter before the other one has begun: whichever dies had something to do. Where one
    is to die, the last quarter waits for its death: a kill takes time, in which the rest could be finished."""

    died = False

    def deal(self, worker: str) -> list[int] | None:
        return None if self.early() and time.monotonic() < BEGUN + PATIENCE else super().deal(worker)

    def early(self) -> bool:
        ran, quarter = sum(map(len, self._with.values())) + self._prompts, len(self._ids) // 4
        alone = len(self._with) < 2 and not self.died and ran >= quarter
        return alone or (accident in ("worker", "node") and not self.died and ran >= 3 * quarter)

    def gone(self, worker: str) -> int:
        self.died = True
        return super().gone(worker)

    def at_work(self) -> int:
        """Workers with prompts that are not committed; both count where they wait for the accident."""
        return 2 if self.early() else sum(bool(numbers) for numbers in self._with.values())


def even_desk(*args: Any) -> Any:
    desks.append(made := make_desk(*args))
    return made


def workers() -> list[psutil.Process]:
    """Processes of our workers that run, by the title that Ray gives them."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.name().startswith(("ray::Worker", "ray::VllmWorker"))]


def watch(progress: Progress) -> None:
    if killed or progress.prompts < progress.total_prompts // 4:
        return
    if accident == "node" and ray.get(desks[0].at_work.remote()) < 2:
        return
    if accident == "worker":
        for process in workers():
            killed.append(process.pid)
            process.kill()
    elif accident == "node":
        killed.append(0)
        here = ray.get_runtime_context().get_node_id()
        cluster.remove_node(next(one for one in nodes if one.node_id != here), allow_graceful=False)
    elif accident == "driver":
        os.kill(os.getpid(), signal.SIGKILL)


ray_trace.LOOK_SECONDS = 0.05
ray_trace.Desk, make_desk, ray_trace._desk = EvenDesk, ray_trace._desk, even_desk
node = {"num_cpus": 1, "object_store_memory": 100 << 20}
cluster = Cluster(
    initialize_head=True,
    head_node_args=node | {"num_cpus": 0, "include_dashboard": False, "_system_config": BUSY},
)
nodes = [cluster.add_node(**node) for _ in range(2)]
try:
    asked = {"max_model_len": 512, "max_num_seqs": 8, "kv_cache_memory_bytes": 1 << 27, "enforce_eager": True}
    how = (
        {"load": {"dtype": "float32"}, "vllm": {"arguments": asked}, "capture": ("ids", "weights", "logits")}
        if engine
        else {"load": {"device": "cpu", "dtype": "float32"}, "batch_size": 1}
    )
    summary = ray_trace.trace_with_ray(
        model, prompts, out, address=cluster.address, workers=2, weight_type="float32", progress=watch,
        part_events=60, resume="://" in out or os.path.exists(out), **how,
    )  # fmt: skip
    print(json.dumps(summary.to_json() | {"killed": killed}))
finally:
    ray.shutdown()
    cluster.shutdown()
