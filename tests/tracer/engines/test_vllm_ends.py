"""Traces inside vLLM that end early: the driving process, a worker or the user ends them; resumed, nothing is missing
and nothing is there twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from vllm_runs import NEEDS_VLLM, PYTHON, SMALL, compare, qwen3, some_prompts, traced_here, traced_in_vllm

from moescope.store import open_trace

pytestmark = NEEDS_VLLM
PROMPTS = 12
SCRIPT = """
import json, os, signal, sys
import psutil
from moescope.tracer.engines.vllm.trace import trace_with_vllm

model, prompts, out, whom = sys.argv[1:5]
settings = dict(pair.split("=") for pair in sys.argv[5:])

def told(progress):
    if progress.prompts < 4:
        return
    if whom == "itself":
        os.kill(os.getpid(), signal.SIGKILL)
    if whom == "user":
        os.kill(os.getpid(), signal.SIGINT)
    for child in psutil.Process().children(recursive=True):
        if whom == "engine" and "EngineCore" in " ".join([child.name(), *child.cmdline()]):
            child.kill()

if __name__ == "__main__":
    trace_with_vllm(
        model, prompts, out, arguments={name: json.loads(value) for name, value in settings.items()},
        dtype="float32", capture=("ids", "weights", "logits"), weight_type="float32", max_new_tokens=4,
        part_events=1, progress=told,
    )
"""
"""Commits whatever is finished at every turn, and from the fourth prompt on kills."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3(tmp_path_factory.mktemp("model") / "qwen3")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", PROMPTS)


@pytest.fixture(scope="module")
def whole(model: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return traced_here(model, prompts, tmp_path_factory.mktemp("whole") / "t")


@pytest.mark.parametrize("whom", ["itself", "engine", "user"])
def test_resumed_it_is_the_whole_trace(
    whom: str, model: Path, prompts: Path, whole: Any, tmp_path: Path
) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    few = [pair for pair in SMALL if not pair.startswith("max_num_seqs")] + ["max_num_seqs=2"]
    command = [PYTHON, str(tmp_path / "run.py"), str(model), str(prompts), str(tmp_path / "t"), whom, *few]
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    # It returns when nobody holds the pipes any more: no process of the engine may outlive its driver.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=400)
    assert done.returncode in {"itself": (-signal.SIGKILL,)}.get(whom, (1, -signal.SIGINT)), done.stderr[
        -2000:
    ]
    left = open_trace(tmp_path / "t")
    assert left.state == "partial"
    assert left.verify() == []
    assert 0 < left.num_prompts < PROMPTS
    if whom == "engine":
        assert "continue with --resume" in done.stderr
    trace, summary = traced_in_vllm(model, prompts, tmp_path / "t", "--resume")
    assert summary["resumed_prompts"] == left.num_prompts
    assert trace.state == "complete"
    count, ties = compare(whole, trace)
    assert count == whole.num_events
    assert ties < 0.01 * count
    assert json.loads((tmp_path / "t" / "trace.json").read_text())["runs"][1]["first_part"] == len(left.parts)
