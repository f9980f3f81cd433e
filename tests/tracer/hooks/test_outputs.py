"""`output_norm` and `similarity` are those of a loop over tokens and experts, written out for each layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny import character_tokenizer, family, tiny_olmoe
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from zoo import build, discover

from moescope.store import open_trace
from moescope.store.export import export_trace
from moescope.tracer import PromptSet, Steering, emergent_moe, find_routers, trace_prompts
from moescope.tracer.errors import CaptureError

TEXTS = ["Where is the library?", "a", "two words"]
BOTH = ("ids", "weights", "output_norm", "similarity")


def silu_gated(m: Any, e: int, x: Tensor) -> Tensor:
    gate, up = (m.gate_up_proj[e] @ x).chunk(2)
    return m.down_proj[e] @ (F.silu(gate) * up)


def clamped_with_biases(m: Any, e: int, x: Tensor) -> Tensor:
    both = x @ m.gate_up_proj[e] + m.gate_up_proj_bias[e]
    gate, up = both[::2].clamp(max=m.limit), both[1::2].clamp(-m.limit, m.limit)
    return ((up + 1) * gate * torch.sigmoid(gate * m.alpha)) @ m.down_proj[e] + m.down_proj_bias[e]


def squared_relu_without_gate(m: Any, e: int, x: Tensor) -> Tensor:
    return m.down_proj[e] @ (m.up_proj[e] @ x).relu().square()


def rows_end_to_end(m: Any, e: int, x: Tensor) -> Tensor:
    w1, v1, w2 = (w.reshape(m.num_experts, -1, m.hidden_size)[e] for w in (m.mlp.w1, m.mlp.v1, m.mlp.w2))
    return (F.silu(w1 @ x) * (v1 @ x)) @ w2


def some_identities(m: Any, e: int, x: Tensor) -> Tensor:
    return x if e >= m.num_routed_experts else silu_gated(m, e, x)


LAYOUTS = {
    "olmoe": silu_gated,
    "deepseek_v3": silu_gated,
    "gpt_oss": clamped_with_biases,
    "nemotron_h": squared_relu_without_gate,
    "dbrx": rows_end_to_end,
    "longcat_flash": some_identities,
    "zaya": silu_gated,
}


def prompts() -> PromptSet:
    return PromptSet.from_rows([{"id": f"p{i}", "text": text} for i, text in enumerate(TEXTS)])


def traced(model, url, **options):
    options = {"capture": BOTH, "weight_type": "float32", "batch_size": 2} | options
    trace_prompts(model, character_tokenizer(), prompts(), url, **options)
    return open_trace(url)


def seen(model, text: str, hooks: dict[str, Any]) -> dict[str, list[Tensor]]:
    """First argument of each module in a forward pass over one text alone, as rows (T, H)."""
    found: dict[str, list[Tensor]] = {}

    def watch(name: str):
        return lambda module, args: found.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1]))

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in hooks.items()]
    with torch.no_grad():
        model(input_ids=character_tokenizer()(text, return_tensors="pt")["input_ids"])
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_norms_are_those_of_each_expert_run_alone(tmp_path, name):
    model, expert = family(name), LAYOUTS[name]
    trace = traced(model, tmp_path / "t", capture=("ids", "weights", "output_norm"))
    used = set()
    for spec in find_routers(model):
        module = model.get_submodule(spec.experts or "")
        for number, text in enumerate(TEXTS):
            (hidden_TH,) = seen(model, text, {"experts": module})["experts"]
            rows = trace.events(prompt_id=f"p{number}", layer=spec.layer).sort_by("position").to_pydict()
            for x, ids, norms in zip(hidden_TH, rows["experts"], rows["output_norm"], strict=True):
                wanted = [float(expert(module, e, x).norm()) for e in ids]
                np.testing.assert_allclose(norms, wanted, rtol=2e-4, atol=1e-6)
                used |= set(ids)
    assert name != "longcat_flash" or used >= {*range(10, 14)}


def test_the_skip_choice_puts_nothing_out(tmp_path):
    steering = Steering([{"rule": "on", "layers": "all", "experts": [10]}])
    capture = ("ids", "weights", "output_norm")
    events = traced(family("zaya"), tmp_path / "t", capture=capture, steering=steering).events()
    assert {*map(tuple, events["experts"].to_pylist())} == {(10,)}
    assert {*map(tuple, events["output_norm"].to_pylist())} == {(0.0,)}


def cosine_after(x: Tensor, added: Tensor) -> float:
    return float(x @ (x + added) / (x.norm() * (x + added).norm()))


def granite(name: str) -> Any:
    model: Any = build(next(each for each in discover() if each.name == name))
    for layer in model.model.layers:
        layer.residual_multiplier = 0.22
    return model


SCALED = {
    "olmoe": (lambda: family("olmoe"), "mlp", 1.0),
    "qwen2_moe": (lambda: family("qwen2_moe"), "mlp", 1.0),  # a gated shared expert in the same block
    "granitemoeshared": (lambda: granite("granitemoeshared"), "block_sparse_moe", 0.22),  # and beside it
}


@pytest.mark.parametrize("name", SCALED)
@torch.no_grad()
def test_similarity_is_of_the_token_before_and_after_its_routed_experts(tmp_path, name):
    make, block, scale = SCALED[name]
    model = make()
    trace = traced(model, tmp_path / "t")
    layers: Any = model.model.layers
    for layer in layers:
        experts = getattr(layer, block).experts
        experts_layer = next(i for i, each in enumerate(layers) if each is layer)
        for number, text in enumerate(TEXTS):
            found = seen(model, text, {"experts": experts, "norm": layer.post_attention_layernorm})
            rows = trace.events(prompt_id=f"p{number}", layer=experts_layer).sort_by("position").to_pydict()
            for token, (x, h) in enumerate(zip(found["norm"][0], found["experts"][0], strict=True)):
                chosen = zip(rows["experts"][token], rows["weights"][token], strict=True)
                added = sum(g * silu_gated(experts, e, h) for e, g in chosen)
                assert rows["similarity"][token] == pytest.approx(cosine_after(x, scale * added), abs=1e-5)


@pytest.mark.parametrize("top_k", [None, 3])
@torch.no_grad()
def test_outputs_of_emergent_experts_are_what_their_neurons_add(tmp_path, top_k):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        mlp_bias=True, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    model: Any = emergent_moe(LlamaForCausalLM(config).eval(), num_experts=8, top_k=top_k)
    trace = traced(model, tmp_path / "t")
    for number, layer in enumerate(model.model.layers):
        dense, group_F = layer.mlp.dense, layer.mlp.experts.group
        found = seen(model, TEXTS[0], {"mlp": layer.mlp, "norm": layer.post_attention_layernorm})
        rows = trace.events(prompt_id="p0", layer=number).sort_by("position").to_pydict()
        for token, (x, h) in enumerate(zip(found["norm"][0], found["mlp"][0], strict=True)):
            neurons_F = F.silu(dense.gate_proj(h)) * dense.up_proj(h)
            added = [dense.down_proj.weight @ (neurons_F * (group_F == e)) for e in rows["experts"][token]]
            norms = [float(one.norm()) for one in added]
            np.testing.assert_allclose(rows["output_norm"][token], norms, rtol=1e-4, atol=1e-6)
            after = cosine_after(x, torch.stack(added).sum(0))
            assert rows["similarity"][token] == pytest.approx(after, abs=1e-5)


def test_generated_tokens_and_dropped_experts_have_outputs_too(tmp_path):
    model = tiny_olmoe(num_experts_per_tok=4)
    steering = Steering([{"rule": "top_p", "layers": "all", "amount": 0.6}])
    events = traced(model, tmp_path / "t", steering=steering, max_new_tokens=3).events()
    experts, norms = (events[name].combine_chunks() for name in ("experts", "output_norm"))
    assert experts.offsets == norms.offsets
    assert len({len(ids) for ids in experts.to_pylist()}) > 1
    values = np.asarray(norms.flatten())
    assert (values > 0).all()
    assert np.isfinite(values).all()
    assert np.isfinite(np.asarray(events["similarity"])).all()
    whole = traced(model, tmp_path / "again", steering=steering, max_new_tokens=3, batch_size=1).events()
    again = np.asarray(whole["output_norm"].combine_chunks().flatten())
    np.testing.assert_allclose(values, again, rtol=1e-3)


def test_choices_are_scored_without_recording_outputs(tmp_path):
    rows = [{"id": "q", "text": "Is it? ", "choices": ["yes", "no"], "answer": 0}]
    model, url = tiny_olmoe(), tmp_path / "t"
    trace_prompts(model, character_tokenizer(), PromptSet.from_rows(rows), url, capture=BOTH)
    assert open_trace(url).num_events == 3 * len("<Is it? ")


@pytest.mark.parametrize(
    ("name", "capture", "why"),
    [
        ("llama4/Llama4ForCausalLM", "output_norm", "gate weight multiplies the expert's input"),
        ("flex_olmo", "similarity", "does not simply add"),  # a norm stands between block and residual stream
        ("doge", "output_norm", "row of two embeddings"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name_and_nothing_is_written(tmp_path, name, capture, why):
    with pytest.raises(CaptureError, match=rf"layers\.\d.*{why}"):
        traced(family(name), tmp_path / "t", capture=("ids", capture))
    assert not (tmp_path / "t").exists()


def test_experts_that_do_more_than_add_up_are_noticed(tmp_path):
    """NLLB's bug, made here: the module does not run what it was told to."""
    model: Any = tiny_olmoe()
    experts = model.model.layers[1].mlp.experts
    run = experts.forward
    experts.forward = lambda hidden, ids, weights: run(hidden, (ids + ids.shape[-1] - 1) % 8, weights)
    with pytest.raises(CaptureError, match=r"layers\.1\.mlp\.experts.*do not add up"):
        traced(model, tmp_path / "t")


def test_outputs_come_back_through_sql_export_and_the_python_face(tmp_path):
    trace = traced(tiny_olmoe(), tmp_path / "t")
    rows = trace.sql(
        "SELECT output_norm, similarity FROM events ORDER BY prompt_id, layer, position"
    ).to_pylist()
    table = trace.events().sort_by(
        [("prompt_id", "ascending"), ("layer", "ascending"), ("position", "ascending")]
    )
    assert [row["output_norm"] for row in rows] == table["output_norm"].to_pylist()
    assert [row["similarity"] for row in rows] == table["similarity"].to_pylist()
    assert len(rows[0]["output_norm"]) == 2
    batch = next(trace.iter_router(0, columns=("experts", "output_norm", "similarity")))
    assert batch.columns["output_norm"].shape == batch.experts.shape
    assert batch.columns["similarity"].shape == batch.position_N.shape
    prompt = trace.view("prompt-tokens", prompt_id="p0", layer=1)
    own = trace.events(prompt_id="p0", layer=1)
    assert prompt["output_norm"].to_pylist() == own["output_norm"].to_pylist()
    assert prompt["similarity"].to_pylist() == own["similarity"].to_pylist()
    export_trace(trace, tmp_path / "exported", "parquet")
    written = pq.read_table(next((tmp_path / "exported").rglob("*events*.parquet")))
    assert sorted(written["similarity"].to_pylist()) == sorted(table["similarity"].to_pylist())
    assert sorted(written["output_norm"].to_pylist()) == sorted(table["output_norm"].to_pylist())
