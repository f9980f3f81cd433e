"""One trace on a cluster of two nodes is that of one process, also where a worker or the driver is killed.

Runs where `MOESCOPE_RAY` names a Python with Ray in it (`make engines`), or Ray is installed here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from object_server import serving  # pyright: ignore[reportMissingImports]  # of tests/store
from tiny import tiny_olmoe
from transformers import AutoTokenizer
from vllm_runs import PYTHON as MAY_RUN_VLLM
from vllm_runs import compare, qwen3, some_prompts, traced_here

from moescope.store import Trace, open_trace, sample_dir
from moescope.store.files.lock import HEARTBEAT_NAME
from moescope.tracer import load_model, trace_prompts

PYTHON = os.environ.get("MOESCOPE_RAY") or (sys.executable if find_spec("ray") else "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="MOESCOPE_RAY names no Python with Ray (make engines)"),
    pytest.mark.timeout(600),
]
PROMPTS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, prompts, and what one process makes of them."""
    place = tmp_path_factory.mktemp("ray")
    model = tiny_olmoe(vocab_size=8192, bos_token_id=0, eos_token_id=0, pad_token_id=None)
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(place / "model")
    AutoTokenizer.from_pretrained(sample_dir() / "model").save_pretrained(place / "model")
    rows = [{"id": f"p{i}", "text": f"This is prompt number {i}, " * (1 + i % 3)} for i in range(PROMPTS)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_model(place / "model", device="cpu", dtype="float32")
    trace_prompts(
        loaded.model, loaded.tokenizer, place / "prompts.jsonl", place / "whole", batch_size=1,
        weight_type="float32", card=loaded.card,
    )  # fmt: skip
    return place


def on_ray(made: Path, out: Path | str, accident: str, *engine: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parent / "two_nodes.py"
    command = [
        PYTHON,
        str(script),
        str(made / "model"),
        str(made / "prompts.jsonl"),
        str(out),
        accident,
        *engine,
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=500, cwd=made.parent
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The summary; Ray writes to stdout too, when a worker dies."""
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def events(trace: Trace) -> tuple[list[Any], np.ndarray]:
    """Every event with its experts, and their gate weights; one prompt a batch, so that no shape differs."""
    order = [("prompt_id", "ascending"), ("layer", "ascending"), ("position", "ascending")]
    table = trace.events().sort_by(order)
    rows = [table[name].to_pylist() for name in ("prompt_id", "layer", "position", "experts")]
    return rows, np.asarray(table["weights"].to_pylist())


def check(made: Path, out: Path | str, summary: dict[str, Any]) -> Trace:
    found, whole = open_trace(out), open_trace(made / "whole")
    assert found.verify() == []
    assert found.state == "complete"
    ours, theirs = events(found), events(whole)
    assert ours[0] == theirs[0]
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    assert summary["prompts"] + summary["resumed_prompts"] == PROMPTS
    assert found.manifest.settings == whole.manifest.settings
    for name in ("weights_fingerprint", "config_hash", "parameters"):
        assert found.manifest.model[name] == whole.manifest.model[name]
    return found


@pytest.mark.parametrize("accident", ["worker", "node"])
def test_what_is_killed_had_prompts_that_run_elsewhere(made: Path, tmp_path: Path, accident: str) -> None:
    done = on_ray(made, tmp_path / "t", accident)
    assert done.returncode == 0, done.stderr[-6000:]
    summary = told(done)
    assert len(summary["killed"]) > 0
    # A worker that a busy machine takes for dead is replaced too.
    assert summary["deaths"] >= len(summary["killed"])
    assert (summary["prompts"], summary["resumed_prompts"]) == (PROMPTS, 0)
    found = check(made, tmp_path / "t", summary)
    assert len(found.manifest.parts) > 4
    files = {path.stem for path in (tmp_path / "t").rglob("part-*.parquet")}
    assert files == {entry.name for entry in found.manifest.parts}


def test_workers_put_their_parts_into_an_object_store(made: Path, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url = server.url("bucket/t")
        done = on_ray(made, url, "worker")
        assert done.returncode == 0, done.stderr[-3000:]
        summary = told(done)
        assert len(summary["killed"]) > 0
        found = check(made, url, summary)
    files = {path.stem for path in (tmp_path / "bucket" / "t").rglob("part-*.parquet")}
    assert files == {entry.name for entry in found.manifest.parts}
    assert not (tmp_path / "bucket" / "t" / HEARTBEAT_NAME).exists()


def test_where_the_driver_is_killed_the_trace_goes_on(made: Path, tmp_path: Path) -> None:
    assert on_ray(made, tmp_path / "t", "driver").returncode == -9
    before = open_trace(tmp_path / "t")
    assert before.verify() == []
    assert 0 < before.num_prompts < PROMPTS
    done = on_ray(made, tmp_path / "t", "none")
    assert done.returncode == 0, done.stderr[-6000:]
    summary = told(done)
    assert summary["resumed_prompts"] >= before.num_prompts
    assert len(check(made, tmp_path / "t", summary).manifest.runs) == 2


@pytest.mark.skipif(not MAY_RUN_VLLM, reason="MOESCOPE_ENGINES names no Python with vLLM (make engines)")
def test_each_worker_may_run_a_vllm(tmp_path: Path) -> None:
    model = qwen3(tmp_path / "model")
    prompts = some_prompts(tmp_path / "prompts.jsonl", 6)
    here = traced_here(model, prompts, tmp_path / "here", max_new_tokens=0)
    done = on_ray(tmp_path, tmp_path / "t", "none", "vllm")
    assert done.returncode == 0, done.stderr[-6000:]
    there = open_trace(tmp_path / "t")
    assert there.verify() == []
    count, ties = compare(here, there)
    assert (told(done)["events"], told(done)["workers"]) == (count, 2)
    assert ties < 0.01 * count
    assert there.manifest.model["engine"] == "vllm"
