# pyright: reportCallIssue=false
"""vLLM's own requests file, imported, against the transformers trace of the same model and prompts.

The files in `recorded/` were written by vLLM 0.32 on a CPU (`enable_return_routed_experts`, greedy, 4 tokens) with the
snippet of docs/import.md, from the model that `model` makes, in float32 and in bfloat16.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from moescope.store import open_trace, sample_dir
from moescope.store.compare import pair_traces, view
from moescope.store.importers import run
from moescope.tracer import PromptSet, trace_prompts

RECORDED = Path(__file__).parent / "recorded"
EXPERTS, NEW = 16, 4
TIE = 1e-3
"""Router logits: far above what float32 rounds, far below the usual distance of the last chosen expert to the next."""


def requests(dtype: str) -> Path:
    return RECORDED / f"vllm-{dtype}.jsonl"


def rows() -> list[dict]:
    return [json.loads(line) for line in requests("float32").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=8192, hidden_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, head_dim=32,
        intermediate_size=64, moe_intermediate_size=32, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0, initializer_range=0.15, num_experts=EXPERTS, num_experts_per_tok=4,
        norm_topk_prob=True, mlp_only_layers=[], decoder_sparse_step=1,
    )  # fmt: skip
    model, path = Qwen3MoeForCausalLM(config).float().eval(), tmp_path_factory.mktemp("vllm") / "transformers"
    prompts = PromptSet.from_rows([{"id": row["request_id"], "text": row["prompt"]} for row in rows()])
    tokenizer = AutoTokenizer.from_pretrained(sample_dir() / "model")
    trace_prompts(model, tokenizer, prompts, path, max_new_tokens=NEW, capture=("ids", "weights", "logits"))
    return open_trace(path)


def compared(trace, dtype: str, out: Path):
    run("vllm", requests(dtype), out, experts=EXPERTS)
    return pair_traces(trace, open_trace(out))


def test_in_the_same_precision_only_ties_differ(trace, tmp_path):
    pairs = compared(trace, "float32", tmp_path / "imported")
    assert not pairs.partings  # every generated token is the same
    # The last generated token never went through the model.
    assert {name: count for name, count in pairs.unpaired.items() if count} == {
        "positions only in B": len(rows())
    }
    overall = view(pairs, "agreement-overall").to_pylist()[0]
    routed = sum(len(row["prompt_token_ids"]) + NEW - 1 for row in rows())
    assert (overall["tokens"], overall["layers"]) == (routed, 3)
    ties = view(pairs, "agreement-margin").to_pylist()
    assert all(row["flip_rate"] == 0 for row in ties if row["margin_from"] > TIE)
    assert overall["flip_rate"] < 0.005


def test_in_another_precision_close_choices_flip(trace, tmp_path):
    pairs = compared(trace, "bfloat16", tmp_path / "imported")
    overall = view(pairs, "agreement-overall").to_pylist()[0]
    assert 0.003 < overall["flip_rate"] < 0.05
    margins = view(pairs, "agreement-margin").to_pylist()
    closest = [row["flip_rate"] for row in margins if row["decile"] == 1]
    others = [row["flip_rate"] for row in margins if row["decile"] > 3]
    assert sum(closest) / len(closest) > 0.1
    assert sum(others) / len(others) < 0.01
