"""Started by a Python with Ray: a cluster of two nodes on this machine, and one trace on it, with accidents.

python two_nodes.py MODEL PROMPTS OUT ACCIDENT; ACCIDENT is `none`, `worker` (all that run are killed),
`node` (a whole one is) or `driver` (this process is killed, midway). Prints a JSON line: the
summary, and who was killed.
"""

# Ray is not there where the types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
import signal
import sys

import psutil
import ray
from ray.cluster_utils import Cluster

from moescope.tracer.engines.ray import trace as ray_trace
from moescope.tracer.run.progress import Progress

model, prompts, out, accident = sys.argv[1:]
killed: list[int] = []


def workers() -> list[psutil.Process]:
    """Processes of our workers that run, by the title that Ray gives them."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.name().startswith("ray::Worker")]


def watch(progress: Progress) -> None:
    if killed or not progress.total_prompts // 4 <= progress.prompts < progress.total_prompts * 3 // 4:
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
node = {"num_cpus": 1, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(**node) for _ in range(2)]
try:
    summary = ray_trace.trace_with_ray(
        model, prompts, out, address=cluster.address, workers=2, load={"device": "cpu", "dtype": "float32"},
        batch_size=1, weight_type="float32", progress=watch, part_events=60, resume=os.path.exists(out),
    )  # fmt: skip
    print(json.dumps(summary.to_json() | {"killed": killed}))
finally:
    ray.shutdown()
    cluster.shutdown()
