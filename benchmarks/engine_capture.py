"""What recording inside an engine costs.

    python benchmarks/engine_capture.py [--layers N] [--rows 256] [--pairs 15] [--device auto]
    python benchmarks/engine_capture.py --model MODEL [--prompts 64] [--tokens 32] [--pairs 5] [--engine-arg k=v]

Without a model: steps of a stack of MoE layers in OLMoE-1B-7B's shape (64 experts, top 8, hidden size 2048) with vLLM's
interfaces and moescope's taps, eagerly and, on a GPU, replayed from a CUDA graph; beside copies of the ids alone, which
is what vLLM's own `enable_return_routed_experts` does. It needs no vLLM. A layer takes 1.1 GB in float32, half of it in
bfloat16; by default there are 16 on a GPU and 2 on a CPU.

With a model: the model runs in vLLM (which must be installed), with taps that record and with taps at rest, in
alternating pairs of the same requests in one engine; on a CPU what is compared are CPU seconds of all processes, which
other programs hardly touch. Printed are medians of the ratios with quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from moescope.store.schema import RouterSpec
from moescope.tracer.engines.vllm.taps import RouterTap, TapBuffers, to_host

HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 2048, 1024, 64, 8


class Router:
    """vLLM's interface: softmax, the largest, made to sum to 1."""

    def _compute_routing(
        self, hidden: Any, logits: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weights, ids = logits.softmax(-1, dtype=torch.float32).topk(TOP_K)
        return weights / weights.sum(-1, keepdim=True), ids.to(torch.int32)


LAYERS = {"cuda": 16, "cpu": 2}
Weights = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def weights(device: str, dtype: torch.dtype) -> Weights:
    """Of one layer: gate, up and down."""

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype).div_(shape[-2] ** 0.5)

    return (
        weight(HIDDEN, EXPERTS),
        weight(EXPERTS, HIDDEN, INTERMEDIATE),
        weight(EXPERTS, INTERMEDIATE, HIDDEN),
    )


class Layer:
    """A router and experts that do the work of `rows` evenly spread tokens."""

    def __init__(self, rows: int, own: Weights) -> None:
        self.gate, self.up, self.down = own
        self.each = max(1, rows * TOP_K // EXPERTS)
        self.router, self.rows = Router(), rows

    def forward_modular(
        self, *, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor
    ) -> torch.Tensor:
        spread = x.repeat(TOP_K, 1)[: self.each * EXPERTS].reshape(EXPERTS, self.each, HIDDEN)
        out = torch.bmm(torch.relu(torch.bmm(spread, self.up)), self.down).reshape(-1, HIDDEN)
        return x + out[: self.rows] * topk_weights[:, :1].to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, ids = self.router._compute_routing(x, x @ self.gate)
        return self.forward_modular(x=x, topk_weights=weights, topk_ids=ids)


def stack(layers: int, device: str) -> list[Weights]:
    """The weights that all kinds of a step share."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return [weights(device, dtype) for _ in range(layers)]


def spec(layer: int) -> RouterSpec:
    return RouterSpec(layer=layer, num_experts=EXPERTS, top_k=TOP_K, router=f"layers.{layer}")


def tapped(layers: list[Layer], rows: int, device: str) -> TapBuffers:
    buffers = TapBuffers([spec(number) for number in range(len(layers))], rows, device)
    for number, layer in enumerate(layers):
        RouterTap(buffers, number).stand_on(layer.router, layer)
    return buffers


def ids_only(layers: list[Layer], rows: int, device: str) -> torch.Tensor:
    """What vLLM's own return of routed experts does in each layer."""
    buffer = torch.zeros(rows, len(layers), TOP_K, dtype=torch.int32, device=device)

    def stand_on(number: int, router: Any) -> None:
        compute = router._compute_routing

        def routed(*args: Any) -> Any:
            weights, ids = compute(*args)
            buffer[: len(ids), number] = ids
            return weights, ids

        router._compute_routing = routed

    for number, layer in enumerate(layers):
        stand_on(number, layer.router)
    return buffer


def step_of(kind: str, layers: list[Layer], rows: int, device: str, graphed: bool) -> Callable[[], None]:
    """One step as an engine runs it, with what it hands to the host."""
    x = torch.randn(rows, HIDDEN, device=device, dtype=layers[0].gate.dtype)
    buffers = tapped(layers, rows, device) if kind == "taps" else None
    own = ids_only(layers, rows, device) if kind == "ids" else None

    def forward() -> None:
        out = x
        for layer in layers:
            out = layer.forward(out)

    run = _graphed(forward) if graphed else forward

    def step() -> None:
        if buffers is not None:
            buffers.begin_step()
        run()
        for values in (
            (buffers.ids_LNK, buffers.weights_LNK, buffers.logits_LNE) if buffers is not None else ()
        ):
            to_host(values)
        if own is not None:
            to_host(own)

    return step


def _graphed(forward: Callable[[], None]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()

    def replay(keeps: Callable[[], None] = forward) -> None:
        """The graph knows addresses only: `keeps` holds the weights and the input that lie there."""
        graph.replay()

    return replay


def seconds(step: Callable[[], None], device: str, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def said(name: str, ratios: list[float], plain: list[float], each: str = "a step") -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{name}: x {middle:.3f} [{low:.3f}, {high:.3f}] of {1e3 * statistics.median(plain):.2f} ms {each}"


@torch.inference_mode()
def without_engine(options: argparse.Namespace) -> None:
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    what = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    count_layers = options.layers or LAYERS[device]
    shared = stack(count_layers, device)
    print(f"{what}: {count_layers} layers, {options.rows} rows a step")
    for graphed in (False, True) if device == "cuda" else (False,):
        kinds = ("plain", "ids", "taps")
        steps = {
            kind: step_of(kind, [Layer(options.rows, own) for own in shared], options.rows, device, graphed)
            for kind in kinds
        }
        count = 50 if device == "cuda" else 2
        for step in steps.values():
            seconds(step, device, 3)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(options.pairs):
            for kind in kinds:
                found[kind].append(seconds(steps[kind], device, count))
        how = "CUDA graph" if graphed else "eager"
        for kind in kinds[1:]:
            ratios = [a / b for a, b in zip(found[kind], found["plain"], strict=True)]
            name = "taps: ids, gate weights, logits" if kind == "taps" else "ids only, as vLLM's own return"
            print(said(f"{how}, {name}", ratios, found["plain"]))
    if device == "cuda":
        check_graph(device)


def check_graph(device: str) -> None:
    """A replayed graph must write what the same input gives eagerly."""
    layers = [Layer(8, own) for own in stack(2, device)]
    buffers = tapped(layers, 8, device)
    x = torch.randn(8, HIDDEN, device=device, dtype=layers[0].gate.dtype)

    def forward() -> None:
        layers[1].forward(layers[0].forward(x))

    replay = _graphed(forward)
    wrong = 0
    for seed in range(5):
        x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
        buffers.begin_step()
        replay()
        torch.cuda.synchronize()
        ids, unseen = buffers.ids_LNK.clone(), buffers.unseen_layers(8)
        eager = Router()._compute_routing(None, x @ layers[0].gate)[1]
        wrong += int((ids[0] != eager).sum()) + len(unseen) + int((ids != buffers.kernel_ids_LNK).sum())
    print(f"replayed graphs: {wrong} ids differ from eager steps and from what the experts received")


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of the engine's."""
    import psutil

    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


async def in_vllm(options: argparse.Namespace) -> None:
    from moescope.tracer.engines.vllm.running import start

    arguments = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in options.engine_arg)}
    engine = start(options.model, arguments=arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            await engine.begin(folder, ("ids", "weights"))
            random, number, found = np.random.default_rng(0), 0, {"plain": [], "taps": []}
            prompts = random.integers(5, 1000, (options.prompts, 64)).tolist()

            async def one(ids: list[int], own: int) -> None:
                async for _ in engine.generate(
                    ids, number=own, max_new_tokens=options.tokens, ignore_eos=True
                ):
                    pass

            clock = time.perf_counter if torch.cuda.is_available() else cpu_seconds
            for pair in range(options.pairs + 1):
                for kind in ("plain", "taps") if pair % 2 else ("taps", "plain"):
                    await engine.call("moescope_record", kind == "taps")
                    begin = clock()
                    await asyncio.gather(*(one(ids, number + i) for i, ids in enumerate(prompts)))
                    if pair:
                        found[kind].append(clock() - begin)
                    number += len(prompts)
            ratios = [a / b for a, b in zip(found["taps"], found["plain"], strict=True)]
            name = f"vLLM, {options.prompts * (64 + options.tokens)} tokens, recording against taps at rest"
            print(said(name, ratios, found["plain"], "a run"))
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--engine-arg", action="append", default=[])
    options = parser.parse_args()
    if options.model:
        asyncio.run(in_vllm(options))
    else:
        without_engine(options)


if __name__ == "__main__":
    main()
