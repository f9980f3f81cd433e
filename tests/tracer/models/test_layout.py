# pyright: reportCallIssue=false
"""A model laid over two processes (gloo, CPU): one trace, and the same as that of one process.

`MOESCOPE_TRANSFORMERS` names a Python with another release of transformers (`make releases`): that release runs in
one process and in two, and its traces are compared with that of one process here. What it can't split is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from moescope.app.cli.commands import run
from moescope.store import Trace, open_trace, sample_dir
from moescope.tracer.models import layout as layouts
from moescope.tracer.models.launched import launched, launched_rank
from moescope.tracer.models.layout import (
    EXPERT_PARALLEL_SINCE,
    SPLIT_SINCE,
    Layout,
    LayoutError,
    layout_of,
    refuse_local_ids,
)

PYTHON = os.environ.get("MOESCOPE_TRANSFORMERS", sys.executable)
TOLD = [PYTHON, "-c", "from importlib.metadata import version; print(version('transformers'))"]
RELEASE = Version(subprocess.check_output(TOLD, text=True))
SINCE = {"tensor": SPLIT_SINCE, "expert": EXPERT_PARALLEL_SINCE, "doctor": EXPERT_PARALLEL_SINCE}
splits = pytest.mark.skipif(RELEASE < SPLIT_SINCE, reason="this transformers release splits no model")
ROUND_OFF = 1e-4
"""Sums in another order, in float32, over three layers: logits of this size agree far better than this."""
TEXTS = ("All human beings are born free.", "Alle Menschen sind frei und gleich geboren.", "one")
RECORDED = [
    "--dtype", "float32", "--capture", "ids,weights,logits", "--weight-type", "float32", "--max-new-tokens", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-MoE and what two processes made of it, and one."""
    place = tmp_path_factory.mktemp("ranks")
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=8192, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, intermediate_size=32, moe_intermediate_size=16, num_experts=16, num_experts_per_tok=4,
        norm_topk_prob=True, mlp_only_layers=[0], max_position_embeddings=256, initializer_range=0.15,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            torch.nn.init.normal_(parameter, std=0.3)  # near ties are rare, as in a trained router
    model.save_pretrained(place / "model")
    AutoTokenizer.from_pretrained(sample_dir() / "model").save_pretrained(place / "model")
    (place / "prompts.txt").write_text("\n".join(TEXTS))
    (place / "taken").mkdir()
    (place / "taken" / "mine.txt").write_text("somebody's")
    tracing = ["trace", str(place / "model"), str(place / "prompts.txt"), "--out"]
    calls = {  # what is refused comes first: both processes find it before they have met
        "taken": [*tracing, str(place / "taken")],
        "noise": [*tracing, str(place / "noise"), "--noise", "1"],
        "alone": ["generate", str(place / "model"), "a"],
        "tensor": [*tracing, str(place / "tensor"), *RECORDED],
        "expert": [*tracing, str(place / "expert"), *RECORDED, "--expert-parallel"],
        "doctor": ["doctor", str(place / "model"), "--expert-parallel"],
    }
    (place / "calls.json").write_text(json.dumps(calls))
    script = Path(__file__).parent / "two_ranks.py"
    done = subprocess.run(
        [PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), str(place)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    if sys.executable != PYTHON:
        one = [*calls["tensor"][:3], "--out", str(place / "one"), "--device", "cpu", *RECORDED]
        subprocess.run([PYTHON, "-m", "moescope.app", *one], check=True, timeout=240)
    assert run([*calls["tensor"][:3], "--out", str(place / "single"), "--device", "cpu", *RECORDED]) == 0, (
        "in one process"
    )
    return place


def said(folder: Path, name: str, rank: int) -> Any:
    return SimpleNamespace(**json.loads((folder / f"{name}.{rank}.json").read_text()))


def events(trace: Trace) -> dict[tuple[Any, ...], tuple[list[int], list[float], list[float]]]:
    table = trace.events()
    columns = ("prompt_id", "position", "layer", "experts", "weights", "logits")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return {tuple(key): (ids, weights, logits) for *key, ids, weights, logits in rows}


def refused(folder: Path, name: str) -> bool:
    """Whether the release is too old for a call; then both processes must have ended with its name, and no trace."""
    if (old := SINCE[name]) <= RELEASE:
        return False
    told = [said(folder, name, rank) for rank in (0, 1)]
    assert [one.code for one in told] == [1, 1]
    assert f"transformers {RELEASE} " in told[0].err
    assert f"install transformers {old} or newer" in told[0].err
    assert not (folder / name).exists()
    return True


@pytest.mark.parametrize(("name", "parallel"), [("tensor", 1), ("expert", 2)])
def test_the_trace_is_that_of_one_process(folder: Path, name: str, parallel: int) -> None:
    if refused(folder, name):
        return
    assert json.loads((folder / name / "trace.json").read_text())["model"]["parallel"] == {
        "tensor": 2, "expert": parallel,
    }  # fmt: skip
    compare(open_trace(folder / "single"), open_trace(folder / name))


@pytest.mark.skipif(
    sys.executable == PYTHON, reason="MOESCOPE_TRANSFORMERS names no other release (make releases)"
)
def test_another_release_in_one_process_gives_the_same(folder: Path) -> None:
    assert open_trace(folder / "one").manifest.model["transformers"] == str(RELEASE)
    compare(open_trace(folder / "single"), open_trace(folder / "one"))


def compare(whole: Trace, split: Trace) -> None:
    assert split.manifest.state == "complete"
    assert len(split.manifest.runs) == 1
    ours, theirs = events(whole), events(split)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 50
    for key, (ids, weights, logits) in ours.items():
        others, other_weights, other_logits = theirs[key]
        np.testing.assert_allclose(other_logits, logits, atol=ROUND_OFF)
        # ids are global ones, in the same order but where two experts are equal within round-off
        for mine, other in zip(ids, others, strict=True):
            assert mine == other or abs(logits[mine] - logits[other]) < 2 * ROUND_OFF
        np.testing.assert_allclose(other_weights, weights, atol=ROUND_OFF)
    assert max(expert for ids, *_ in theirs.values() for expert in ids) > 8  # beyond what one rank holds
    assert whole.prompts()["generated"].to_pylist() == split.prompts()["generated"].to_pylist()
    for entry in ("weights_fingerprint", "parameters", "active_parameters", "config_hash"):
        assert split.manifest.model[entry] == whole.manifest.model[entry], entry


@splits
def test_rank_0_alone_speaks(folder: Path) -> None:
    assert "3 prompts" in said(folder, "tensor", 0).out
    for name in ("tensor", "expert", "doctor", "taken", "noise", "alone"):
        if SINCE.get(name, RELEASE) > RELEASE:
            continue  # refused after the processes of this test have met, which those of a command have not
        assert (said(folder, name, 1).out, said(folder, name, 1).err) == ("", "")


def test_what_rank_0_refuses_ends_every_rank(folder: Path) -> None:
    assert [said(folder, "taken", rank).code for rank in (0, 1)] == [1, 1]
    assert "other files" in said(folder, "taken", 0).err
    assert sorted(os.listdir(folder / "taken")) == ["mine.txt"]


def test_doctor_says_the_layout(folder: Path) -> None:
    if refused(folder, "doctor"):
        return
    told = said(folder, "doctor", 0)
    assert told.code == 0, told.out + told.err
    assert "layout: 2 processes (gloo): tensor parallelism over 2, expert parallelism over 2" in told.out


def test_what_one_process_is_meant_for_is_refused(folder: Path) -> None:
    assert said(folder, "noise", 0).code == 2
    assert "--noise needs one process; torchrun started 2" in said(folder, "noise", 0).err
    assert said(folder, "alone", 0).code == 1
    assert "only trace and doctor" in said(folder, "alone", 0).err


@pytest.mark.parametrize("version", ["5.8.0", "5.18.0", "5.19.0"])
def test_expert_parallelism_of_older_releases_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr("transformers.__version__", version)
    refuse_local_ids(model)  # one process
    monkeypatch.setattr(layouts, "layout_of", lambda model: Layout(tensor=2, ranks=2))
    refuse_local_ids(model)
    monkeypatch.setattr(layouts, "layout_of", lambda model: Layout(tensor=2, expert=2, ranks=2))
    with pytest.raises(LayoutError, match=rf"transformers {version} .* install transformers 5\.20"):
        refuse_local_ids(model)
    monkeypatch.setattr("transformers.__version__", "5.20.0")
    refuse_local_ids(model)


def test_one_process_is_told_by_its_devices() -> None:
    model: Any = torch.nn.Linear(1, 1)
    assert layout_of(model).words == "one process"
    model.hf_device_map = {"a": 0, "b": 1, "c": 1}
    assert layout_of(model).words == "one process, layers spread over 0, 1"
    assert layout_of(model).card() == {}


def test_processes_are_counted_only_where_torchrun_started_them() -> None:
    whole = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    assert (launched(whole), launched_rank(whole)) == (2, 1)
    for name in whole:  # as Slurm leaves some of them
        assert launched({other: value for other, value in whole.items() if other != name}) == 1
