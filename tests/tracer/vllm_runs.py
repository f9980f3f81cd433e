# vLLM is not there where the types are checked.
# pyright: reportCallIssue=false
"""Tiny models traced by transformers here and inside vLLM there, and how their events are compared.

`MOESCOPE_ENGINES` names a Python with vLLM in it (`make engines`).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from moescope.store import open_trace, sample_dir
from moescope.tracer import PromptSet, load_model, trace_prompts

PYTHON = os.environ.get("MOESCOPE_ENGINES", "")
NEEDS_VLLM = [
    pytest.mark.skipif(not PYTHON, reason="MOESCOPE_ENGINES names no Python with vLLM (make engines)"),
    pytest.mark.timeout(600),
]
COMMON: dict[str, Any] = {
    "vocab_size": 8192, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    "initializer_range": 0.15, "num_experts": 16, "num_experts_per_tok": 4,
}  # fmt: skip
SMALL = [
    "max_model_len=512", "max_num_seqs=8", "max_num_batched_tokens=64", "kv_cache_memory_bytes=134217728",
    "enforce_eager=true",
]  # fmt: skip
"""Steps of 64 tokens: most prompts are read in several chunks, beside others that generate."""
NEW = 4
PROMPTS = 6
SETTINGS: dict[str, Any] = {
    "capture": ("ids", "weights", "logits"), "weight_type": "float32", "max_new_tokens": NEW,
}  # fmt: skip


def save(model: Any, folder: Path) -> Path:
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            torch.nn.init.normal_(parameter, std=0.3)  # near ties are rare, as in a trained router
    model.float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_dir() / "model").save_pretrained(folder)
    return folder


def qwen3(folder: Path) -> Path:
    """A tiny Qwen3-MoE whose first layer is dense."""
    config = Qwen3MoeConfig(
        **COMMON,
        head_dim=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        mlp_only_layers=[0],
    )
    return save(Qwen3MoeForCausalLM(config), folder)


def some_prompts(path: Path, count: int) -> Path:
    chosen = PromptSet.from_file(sample_dir() / "udhr.csv").limit(count)
    rows = [{"id": p.id, "text": p.text, "language": p.language} for p in chosen]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def in_vllm(*arguments: str, engine: list[str] = SMALL) -> subprocess.CompletedProcess[str]:
    given = [word for pair in engine for word in ("--engine-arg", pair)]
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    command = [PYTHON, "-m", "moescope.app", *arguments, "--engine", "vllm", *given]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")


def traced_in_vllm(model: Path, prompts: Path, out: Path, *more: str, engine: list[str] = SMALL) -> Any:
    done = in_vllm(
        "trace", str(model), str(prompts), "--out", str(out), "--dtype", "float32", "--capture", "ids,weights,logits",
        "--weight-type", "float32", "--max-new-tokens", str(NEW), "--json", *more, engine=engine,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return open_trace(out), json.loads(done.stdout.splitlines()[-1])


def traced_here(model: Path, prompts: Path, out: Path, **more: Any) -> Any:
    loaded = load_model(model, device="cpu", dtype="float32")
    trace_prompts(loaded.model, loaded.tokenizer, PromptSet.from_file(prompts), out, **SETTINGS | more)
    return open_trace(out)


def events(trace: Any) -> dict[tuple[str, int, int], tuple[list[int], list[float], list[float]]]:
    table = trace.events()
    columns = [
        table[name].to_pylist() for name in ("prompt_id", "position", "layer", "experts", "weights", "logits")
    ]
    return {
        key: rest for *key_, a, b, c in zip(*columns, strict=True) for key, rest in [(tuple(key_), (a, b, c))]
    }


def compare(here: Any, there: Any) -> tuple[int, int]:
    """Every event of one is one of the other; returns how many there are and how many are ties within round-off."""
    a, b = events(here), events(there)
    assert a.keys() == b.keys()
    ties, parted = 0, set()
    for key in sorted(a, key=lambda key: (key[0], key[1], key[2])):
        (ids, weights, logits), (own_ids, own_weights, own_logits) = a[key], b[key]
        if key[0] in parted:  # after a tie was decided otherwise, later tokens see other hidden states
            continue
        finite = np.isfinite(logits)  # an expert that is switched off has the logit -inf
        assert np.array_equal(finite, np.isfinite(own_logits)), key
        difference = float(np.abs(np.array(logits)[finite] - np.array(own_logits)[finite]).max())
        assert difference < 1e-3, (key, difference)
        if set(ids) != set(own_ids):
            falling = np.sort(logits)[::-1]
            assert falling[len(ids) - 1] - falling[len(ids)] <= 2 * difference, key
            ties += 1
            parted.add(key[0])
            continue
        mine, theirs = dict(zip(ids, weights, strict=True)), dict(zip(own_ids, own_weights, strict=True))
        assert max(abs(mine[e] - theirs[e]) for e in mine) < 1e-4, key
    return len(a), ties
