"""What tracing costs: a forward pass alone against the same one traced and written, and bytes per event.

    python benchmarks/trace_overhead.py [--model FOLDER] [--pairs 7] [--batches 2] [--batch-tokens 8192] [--only WORD]

Beside it, what one would otherwise do: `output_router_logits=True` with top-k and NumPy, hooks that append Python
lists, and nnsight where it is installed. All in one run, in alternating order; medians of ratios to the plain
forward pass of the same round, so that a busy machine slows both alike. The plain pass begins with padded tensors,
tracing with texts: tokenising and padding are part of its time, and so are the self-check of the first batch and
the end of the run, when the last part is written and nothing is left to compute. After the first batch a traced pass
ends with the last router's decision, where nobody else has hooks on the model: one row has a hook that does nothing,
and so says what tracing adds to whole passes, as in the rows beside it.

glibc is told to keep freed memory, for both sides: otherwise a pass faults 0.3 to 2 GB in again, by chance, and two
plain passes in a row differ by 10 %. And Python is told that what is there before the first round is no garbage:
looking through it takes 0.2 s, and would befall one side by chance.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moescope.store import sample_dir
from moescope.tracer import PromptSet, find_routers, load_model, trace_prompts
from moescope.tracer.run.capture import Capture
from moescope.tracer.tokens.batches import collate, plan_batches
from moescope.tracer.tokens.encode import Encoder

Batches = list[dict[str, torch.Tensor]]


def prompts_for(tokenizer: Any, batches: int, batch_tokens: int) -> PromptSet:
    """Articles of the Declaration in many languages, repeated until they fill the batches."""
    source = PromptSet.from_file(sample_dir() / "udhr.csv")
    encoder = Encoder(tokenizer)
    rows: list[dict[str, Any]] = []
    total = 0
    while total < batches * batch_tokens * 0.97:
        prompt = source[len(rows) % len(source)]
        rows.append({"id": str(len(rows)), "text": prompt.text})
        total += len(encoder.prompts([prompt])[0])
    return PromptSet.from_rows(rows)


def inputs(tokenizer: Any, prompts: PromptSet, batch_tokens: int, device: torch.device) -> Batches:
    """The batches that the tracer will form."""
    encoded = Encoder(tokenizer).prompts(list(prompts))
    plan = plan_batches(np.asarray([len(sequence) for sequence in encoded]), batch_tokens)
    padded = [collate([encoded[i] for i in chosen], pad_id=0) for chosen in plan]
    return [
        {"input_ids": batch.input_ids_BS.to(device), "attention_mask": batch.mask_BS.to(device)}
        for batch in padded
    ]


def plain(model: Any, batches: Batches, **options: Any) -> list[Any]:
    with torch.inference_mode():
        return [
            model(**batch, use_cache=False, logits_to_keep=1, **options).get("router_logits")
            for batch in batches
        ]


def with_router_logits(model: Any, batches: Batches) -> list[np.ndarray]:
    """transformers' own switch, then top-k of the softmax: not what DeepSeek or GLM execute, but what is done."""
    k = model.config.num_experts_per_tok
    found = []
    for logits in plain(model, batches, output_router_logits=True):
        for layer_TE in logits:
            weights_TK, ids_TK = layer_TE.float().softmax(-1).topk(k)
            found += [ids_TK.cpu().numpy(), weights_TK.cpu().numpy()]
    return found


def with_python_lists(model: Any, batches: Batches) -> list[Any]:
    """A forward hook on every experts module that appends lists."""
    found: list[Any] = []
    modules = dict(model.named_modules())

    def hook(module: Any, args: tuple[Any, ...]) -> None:
        found.append([tensor.tolist() for tensor in args[1:3]])

    handles = [modules[str(spec.experts)].register_forward_pre_hook(hook) for spec in find_routers(model)]
    plain(model, batches)
    for handle in handles:
        handle.remove()
    return found


@torch.inference_mode()
def with_nnsight(model: Any, batches: Batches) -> list[Any]:
    """nnsight, saving the output of every router; it leaves its marks on the model, so give it one of its own."""
    import nnsight  # pyright: ignore[reportMissingImports]

    wrapped = nnsight.NNsight(model)
    routers = [wrapped.get(spec.router) for spec in find_routers(model)]
    found: list[Any] = []
    for batch in batches:
        with wrapped.trace(**batch, use_cache=False, logits_to_keep=1):
            saved = nnsight.save([router.output for router in routers])
        found += [[tensor.cpu().numpy() for tensor in output] for output in saved]
    return found


STEADY = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}


def keep_memory() -> None:
    """Begin this process anew with settings that glibc reads only at its start."""
    if not STEADY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | STEADY)


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start, used = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - used


def ratios(
    baseline: Callable[[], Any], others: dict[str, Callable[[], Any]], pairs: int
) -> dict[str, list[np.ndarray]]:
    """Wall-clock and CPU time of each divided by the baseline of its own round; the order turns round every
    time."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in others}
    for round in range(pairs):
        for name, work in others.items():
            first, second = (baseline, work) if round % 2 else (work, baseline)
            a, b = np.array(seconds(first)), np.array(seconds(second))
            found[name].append(b / a if round % 2 else a / b)
    return found


def capture_cost(rows: int = 8192, experts: int = 64, k: int = 8, layers: int = 16) -> tuple[float, float]:
    """Nanoseconds per selected expert: our capture of ids and weights, and a plain copy of the same tensors."""
    from moescope.store import RouterSpec
    from moescope.tracer.tokens.encode import Encoded

    specs = [RouterSpec(layer=i, num_experts=experts, top_k=k, router=str(i)) for i in range(layers)]
    flags = np.zeros(rows // 8, bool)
    batch = collate([Encoded(np.ones(rows // 8, np.int32), flags, flags)] * 8, pad_id=0)
    ids = torch.rand(rows, experts).topk(k).indices
    weights = torch.rand(rows, k)
    sink = Capture(specs)

    def capture() -> None:
        sink.begin(batch)
        for spec in specs:
            sink.routed(spec, ids, weights, None)
        sink.take()

    def copy() -> None:
        for _ in specs:
            ids.clone()
            weights.clone()

    best = [min(seconds(work)[0] for _ in range(15)) for work in (capture, copy)]
    return best[0] / (rows * k * layers) * 1e9, best[1] / (rows * k * layers) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(sample_dir() / "model"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default="", help="rows that hold this word")
    options = parser.parse_args()
    keep_memory()
    model, tokenizer = load_model(options.model, dtype=options.dtype)
    prompts = prompts_for(tokenizer, options.batches, options.batch_tokens)
    batches = inputs(tokenizer, prompts, options.batch_tokens, model.device)
    folder = Path(tempfile.mkdtemp()) / "trace"

    def traced(*more: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        capture = ("ids", "weights", *more)
        trace_prompts(model, tokenizer, prompts, folder, capture=capture, batch_tokens=options.batch_tokens)

    def traced_whole() -> None:
        handle = model.register_forward_hook(lambda *_: None)
        traced()
        handle.remove()

    others: dict[str, Callable[[], Any]] = {
        "moescope, with what experts put out": lambda: traced("output_norm", "similarity"),
        "moescope, traced and written": traced,
        "moescope, traced and written, whole passes": traced_whole,
        "output_router_logits, top-k, NumPy": lambda: with_router_logits(model, batches),
        "hooks that append Python lists": lambda: with_python_lists(model, batches),
    }
    if importlib.util.find_spec("nnsight") is not None:
        another = copy.deepcopy(model)
        others["nnsight, every router saved"] = lambda: with_nnsight(another, batches)
    others = {name: work for name, work in others.items() if options.only in name}
    plain(model, batches[:1])
    gc.collect()
    gc.freeze()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    print(
        f"{tokens:,} tokens in {len(batches)} batches, {model.dtype}, {model.device}, {options.pairs} pairs"
    )
    print(f"plain forward pass: {seconds(lambda: plain(model, batches))[0]:.2f} s")
    print(
        "\n| what | time / plain forward (median) | quartiles | CPU seconds / plain forward |\n|---|---|---|---|"
    )
    for name, values in ratios(lambda: plain(model, batches), others, options.pairs).items():
        (low, middle, high), (_, cpu, _) = np.quantile(values, [0.25, 0.5, 0.75], axis=0).T
        print(f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {cpu:.3f} |")
    events = tokens * len(find_routers(model))
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    routed = sum(path.stat().st_size for path in (folder / "events").glob("*.parquet"))
    print(f"\n{size / events:.1f} bytes per event, {routed / events:.1f} of them in events")
    ours, copied = capture_cost()
    print(
        f"capture of ids and weights: {ours:.2f} ns per selected expert (a plain copy of both: {copied:.2f})"
    )
    shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
