"""`moescope attach` to vLLM's own server with the return of routed experts on: the experts are those of transformers.

vLLM returns them through Triton kernels; on a CPU Triton's interpreter runs them, which the server is made to accept.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_runs import NEEDS_VLLM, NEW, PYTHON, qwen3, some_prompts, traced_here

from moescope.store import open_trace
from moescope.tracer import PromptSet
from moescope.tracer.engines.attach import attach

pytestmark = NEEDS_VLLM
INTERPRETED = """
import triton
from triton.backends import backends

class Driver:
    @staticmethod
    def is_active():
        return True

class Backend:
    driver = Driver

backends.setdefault("cpu", Backend)
"""
SETTINGS = [
    "--enable-return-routed-experts", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512",
    "--max-num-seqs", "8", "--kv-cache-memory-bytes", "134217728", "--max-num-batched-tokens", "256",
]  # fmt: skip


@contextlib.contextmanager
def served(model: Path, folder: Path) -> Iterator[str]:
    """The address of vLLM's server of a model."""
    (folder / "sitecustomize.py").write_text(INTERPRETED)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "PYTHONPATH": str(folder), "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", *SETTINGS], env=environment, stdout=log, stderr=log, cwd="/"
        )
    try:
        for _ in range(200):
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/v1/models").close()
                break
            time.sleep(2)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def experts(trace: Any) -> dict[tuple[str, int, int], set[int]]:
    rows = trace.events(columns=["prompt_id", "position", "layer", "experts"]).to_pylist()
    return {(row["prompt_id"], row["position"], row["layer"]): set(row["experts"]) for row in rows}


def test_the_experts_are_those_of_transformers(tmp_path: Path) -> None:
    model, prompts = qwen3(tmp_path / "qwen3"), some_prompts(tmp_path / "prompts.jsonl", 6)
    here = experts(traced_here(model, prompts, tmp_path / "here"))
    with served(model, tmp_path) as url:
        attach(url, PromptSet.from_file(prompts), str(tmp_path / "there"), max_new_tokens=NEW, experts=16)
    there = experts(open_trace(tmp_path / "there"))
    assert there.keys() == here.keys()
    differ = sum(there[key] != here[key] for key in here)
    assert differ < 0.01 * len(here)  # ties within round-off
