"""Tracing and steering on a GPU: whether the records are right there, and what they cost.

    python benchmarks/gpu_tracing.py [--layers 16] [--pairs 9] [--batches 4] [--batch-tokens 8192] [--device cuda]

The model has OLMoE-1B-7B's shape (64 experts, top 8, hidden size 2048) and random bfloat16 weights: its routing is
meaningless, its work is real. Printed first, as checks: a trace holds what `record_routing` saw in the same batches,
and neutral steering leaves the logits bit-identical. Then ratios of alternating pairs, medians with quartiles:
traced and written against the plain forward pass; decoding traced against plain `generate`; steered against plain.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trace_overhead import inputs, plain, prompts_for, ratios, seconds, with_python_lists, with_router_logits
from transformers import AutoTokenizer, OlmoeConfig, OlmoeForCausalLM

from moescope.store import open_trace, sample_dir
from moescope.tracer import Steering, find_routers, record_routing, trace_prompts

NEW_TOKENS = 64
PROFILES: dict[str, list[dict[str, Any]]] = {
    "off, 4 experts in all layers": [{"rule": "off", "layers": "all", "experts": [1, 7, 8, 9]}],
    "bias, 4 experts in all layers": [
        {"rule": "bias", "layers": "all", "experts": [1, 7, 8, 9], "amount": 0.5}
    ],
    "scale, 2 experts in all layers": [{"rule": "scale", "layers": "all", "experts": [1, 7], "amount": 0.5}],
}


def random_olmoe(layers: int, device: str) -> Any:
    """OLMoE-1B-7B with fewer layers, if asked for, and random weights."""
    torch.manual_seed(0)
    config = OlmoeConfig(num_hidden_layers=layers, vocab_size=50304, pad_token_id=0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = OlmoeForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return model.eval()


def check_trace(
    model: Any, tokenizer: Any, prompts: Any, batches: Any, batch_tokens: int, folder: Path
) -> None:
    """Every event of the trace is one that the hooks saw: as many, and the same uses of each expert."""
    trace_prompts(model, tokenizer, prompts, folder, batch_tokens=batch_tokens)
    trace = open_trace(folder)
    with record_routing(model) as routing:
        plain(model, batches)
    real = torch.cat([batch["attention_mask"].reshape(-1) for batch in batches]).bool().cpu()
    wrong = total = 0
    for spec in find_routers(model):
        ids = torch.as_tensor(routing.ids(spec.layer)).cpu()[real]
        seen = np.bincount(ids.numpy().reshape(-1), minlength=spec.num_experts)
        held = np.asarray(trace.counts(layer=spec.layer)["count"])
        wrong += int(np.abs(seen - held).sum())
        total += int(seen.sum())
    print(f"trace against hooks: {wrong} of {total:,} uses differ")


@torch.inference_mode()
def check_neutral(model: Any, batch: dict[str, torch.Tensor]) -> None:
    def logits() -> torch.Tensor:
        return model(**batch, use_cache=False, logits_to_keep=1).logits

    before = logits()
    neutral = Steering([{"rule": "bias", "layers": "all", "experts": "all", "amount": 0.0}])
    with neutral.applied(model):
        steered = logits()
    print(f"neutral steering: bit-identical {bool(torch.equal(before, steered))}")


def decoded(model: Any, ids: torch.Tensor) -> None:
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    model = random_olmoe(options.layers, options.device)
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(sample_dir() / "model")
    prompts = prompts_for(tokenizer, options.batches, options.batch_tokens)
    batches = inputs(tokenizer, prompts, options.batch_tokens, model.device)
    folder = Path(tempfile.mkdtemp()) / "trace"
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, {sum(p.numel() for p in model.parameters()) / 1e9:.1f} B parameters"
    )
    check_trace(model, tokenizer, prompts, batches, options.batch_tokens, folder)
    check_neutral(model, batches[0])

    def traced(*more: str, **settings: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        settings = {"batch_tokens": options.batch_tokens} | settings
        trace_prompts(model, tokenizer, prompts, folder, capture=("ids", "weights", *more), **settings)

    def whole() -> None:
        handle = model.register_forward_hook(lambda *_: None)
        traced()
        handle.remove()

    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    base = seconds(lambda: plain(model, batches))[0]
    print(f"{tokens:,} tokens in {len(batches)} batches; plain forward pass {base:.2f} s")
    others = {
        "traced and written": traced,
        "traced and written, whole passes": whole,
        "with probabilities": lambda: traced("probability", "entropy"),
        "output_router_logits, top-k, NumPy": lambda: with_router_logits(model, batches),
        "hooks that append Python lists": lambda: with_python_lists(model, batches),
    }
    show(ratios(lambda: plain(model, batches), others, options.pairs))
    ids = batches[0]["input_ids"][:8, :64].contiguous()
    steered: dict[str, Any] = {}
    for title, rules in PROFILES.items():

        def run(rules: list[dict[str, Any]] = rules) -> None:
            with Steering(rules).applied(model):
                decoded(model, ids)

        steered[f"generate, steered: {title}"] = run

    def recorded() -> None:
        with record_routing(model):
            decoded(model, ids)

    steered["generate, recorded by hooks"] = recorded
    show(ratios(lambda: decoded(model, ids), steered, options.pairs))
    if model.device.type == "cuda":
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    shutil.rmtree(folder.parent)


def show(found: dict[str, list[np.ndarray]]) -> None:
    print("\n| what | time / plain (median) | quartiles | CPU seconds / plain |\n|---|---|---|---|")
    for name, values in found.items():
        (low, middle, high), (_, cpu, _) = np.quantile(values, [0.25, 0.5, 0.75], axis=0).T
        print(f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {cpu:.3f} |", flush=True)


if __name__ == "__main__":
    main()
