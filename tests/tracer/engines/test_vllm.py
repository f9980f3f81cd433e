# pyright: reportCallIssue=false
"""The same tiny models by transformers and inside vLLM: the same events, but for ties within round-off.

Runs where `MOESCOPE_ENGINES` names a Python with vLLM in it (`make engines`); models and reference traces are made
here, with this environment's transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, OlmoeConfig, OlmoeForCausalLM
from vllm_runs import (
    COMMON,
    NEEDS_VLLM,
    PROMPTS,
    PYTHON,
    SMALL,
    compare,
    in_vllm,
    qwen3,
    save,
    some_prompts,
    traced_here,
    traced_in_vllm,
)

from moescope.tracer import Steering, load_model
from moescope.tracer.client import ServerError, connect
from moescope.tracer.generate.text import generate

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    olmoe = OlmoeConfig(**COMMON, intermediate_size=32, norm_topk_prob=False)
    found = {"olmoe": save(OlmoeForCausalLM(olmoe), folder / "olmoe"), "qwen3": qwen3(folder / "qwen3")}
    olmoe.norm_topk_prob = True
    found["other"] = save(OlmoeForCausalLM(olmoe), folder / "other")
    return found


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", PROMPTS)


@pytest.mark.parametrize("name", ["qwen3", "olmoe"])
def test_events_are_those_of_transformers(
    name: str, models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    here = traced_here(models[name], prompts, tmp_path / "here")
    there, summary = traced_in_vllm(models[name], prompts, tmp_path / "there")
    count, ties = compare(here, there)
    print(f"{name}: {count} events, {ties} ties decided otherwise")
    assert summary["events"] == count
    assert ties < 0.01 * count
    assert summary["steps_checked"] >= 4
    for query in (
        "select prompt_id, position, token_id, phase, special from tokens order by 1, 2",
        "select prompt_id, generated from prompts order by 1",
    ):
        assert here.sql(query).to_pylist() == there.sql(query).to_pylist()
    sums = "select layer, phase, sum(tokens) as t, sum(entropy_sum) as e from rollups group by 1, 2 order by 1, 2"
    for mine, own in zip(here.sql(sums).to_pylist(), there.sql(sums).to_pylist(), strict=True):
        assert own["t"] == mine["t"]
        assert own["e"] == pytest.approx(mine["e"], rel=1e-3)
    card = there.manifest.model
    assert card["engine"] == "vllm"
    assert card["parallel"] == {"tensor": 1, "data": 1}
    assert card["config_hash"] == here.manifest.model["config_hash"]


def test_steered_and_preempted_it_is_still_the_same(
    models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    """A cache of few blocks: requests are thrown out and computed again."""
    rules = [
        {"rule": "off", "layers": [1], "experts": [3, 7, 11]},
        {"rule": "bias", "layers": "all", "experts": [5], "amount": 2.0},
        {"rule": "scale", "layers": [2], "experts": [1, 2], "amount": 0.5, "span": "generation"},
    ]
    steering = Steering(rules)
    steering.save(tmp_path / "profile.json")
    here = traced_here(models["qwen3"], prompts, tmp_path / "here", steering=steering, max_new_tokens=24)
    few = [*SMALL[1:], "max_model_len=256", "block_size=32", "num_gpu_blocks_override=9"]
    there, summary = traced_in_vllm(
        models["qwen3"], prompts, tmp_path / "there", "--steer", str(tmp_path / "profile.json"),
        "--max-new-tokens", "24", engine=few,
    )  # fmt: skip
    count, ties = compare(here, there)
    assert ties < 0.01 * count
    assert summary["recomputed"] > 0
    assert there.manifest.steering == here.manifest.steering


def test_another_model_than_the_checkpoint_is_refused_by_name(
    models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    done = in_vllm(
        "trace", str(models["other"]), str(prompts), "--out", str(tmp_path / "t"), "--dtype", "float32"
    )
    assert done.returncode == 1
    assert "OlmoeForCausalLM runs with renormalize = False" in done.stderr
    assert not (tmp_path / "t").exists()


def test_latent_attention_is_refused_with_the_wrong_rotation_and_right_without(
    prompts: Path, tmp_path: Path
) -> None:
    config = DeepseekV3Config(
        **COMMON, intermediate_size=64, moe_intermediate_size=32, n_routed_experts=16, n_shared_experts=1,
        routed_scaling_factor=2.5, n_group=4, topk_group=2, first_k_dense_replace=1, q_lora_rank=64, kv_lora_rank=512,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, topk_method="noaux_tc", scoring_func="sigmoid",
    )  # fmt: skip
    torch.manual_seed(0)
    model = save(DeepseekV3ForCausalLM(config), tmp_path / "model")
    done = in_vllm("trace", str(model), str(prompts), "--out", str(tmp_path / "t"), "--dtype", "float32")
    assert done.returncode == 1
    assert "rotates the wrong elements" in done.stderr
    here = traced_here(model, prompts, tmp_path / "here")
    own = [*SMALL, 'compilation_config={"custom_ops": ["-rotary_embedding"]}']
    there, _ = traced_in_vllm(model, prompts, tmp_path / "there", engine=own)
    count, ties = compare(here, there)
    print(f"deepseek_v3: {count} events, {ties} ties decided otherwise")
    assert ties < 0.01 * count


def test_without_vllm_the_reason_is_one_line(prompts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moescope.app", "trace", "m", str(prompts), "--out", str(tmp_path / "t")]
    done = subprocess.run([*command, "--engine", "vllm"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs vLLM in this Python environment" in done.stderr


RULES = [
    {"rule": "off", "layers": [1], "experts": [3, 7, 11]},
    {"rule": "bias", "layers": [2], "experts": [5], "amount": 2.0},
]


def test_an_evaluation_is_that_of_transformers_but_for_kl(
    models: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    """All variants run mixed in one batch: each has its own rules on its own rows."""
    Steering(RULES).save(tmp_path / "profile.json")
    command = [
        "evaluate", str(models["qwen3"]), str(prompts), "--steer", str(tmp_path / "profile.json"), "--controls", "1",
        "--dtype", "float32", "--limit", "4", "--json",
    ]  # fmt: skip
    here = subprocess.run(
        [sys.executable, "-m", "moescope.app", *command], capture_output=True, text=True, cwd="/"
    )
    there = in_vllm(*command)
    assert there.returncode == 0, there.stderr[-3000:]
    assert "no KL" in there.stderr

    def rows(text: str) -> dict[Any, Any]:
        found = {}
        for row in json.loads(text):
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            found[tuple((name, row[name]) for name in sorted(row.keys() - numbers.keys()))] = numbers
        return found

    def measure(key: Any) -> str:
        return dict(key)["measure"]

    mine = {key: row for key, row in rows(here.stdout).items() if measure(key) != "kl"}
    own = rows(there.stdout[there.stdout.index("[") :])
    assert mine.keys() == own.keys()
    for key, row in mine.items():
        for name, value in row.items():
            assert own[key][name] == pytest.approx(
                value, rel=1e-4, abs=0.02 if measure(key) == "changed" else 1e-3
            ), (
                key,
                name,
            )


def test_requests_of_a_server_each_have_their_own_steering(models: dict[str, Path], tmp_path: Path) -> None:
    """Steered and plain requests at once, with one prefix in the cache: each answers as the model does alone."""
    loaded = load_model(models["qwen3"], device="cpu", dtype="float32")
    steering, text = Steering(RULES), "All human beings are born free and equal in dignity and rights."
    expected = {
        steered: generate(
            loaded.model, loaded.tokenizer, text, steering=steering if steered else None, max_new_tokens=12
        )[0].token_ids
        for steered in (False, True)
    }
    assert expected[False] != expected[True]
    given = [word for pair in SMALL for word in ("--engine-arg", pair)]
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    serve = ["serve", str(models["qwen3"]), "--dtype", "float32", "--engine", "vllm", *given]
    command = [PYTHON, "-m", "moescope.app", *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd="/") as process:
        try:
            line = next(line for line in iter(process.stdout.readline, "") if line.startswith("{"))  # type: ignore[union-attr]
            address = json.loads(line)

            def ask(steered: bool) -> list[int]:
                client = connect(address["url"], token_file=address["token_file"])
                profile = steering.to_json() if steered else None
                *_, end = client.generate(text, steering=profile, max_new_tokens=12)
                return end["steered" if steered else "base"]["token_ids"]

            with ThreadPoolExecutor(8) as pool:
                sides = [True, False] * 4
                answers = list(pool.map(ask, sides))
            assert answers == [expected[side] for side in sides]
            client = connect(address["url"], token_file=address["token_file"])
            with pytest.raises(ServerError, match="not available with --engine vllm"):
                client.score([{"id": "a", "text": text}])
        finally:
            process.terminate()
            process.wait(60)
