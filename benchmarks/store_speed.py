"""How long the store takes to answer, at growing numbers of events.

    python benchmarks/store_speed.py --events 1e6 1e7 [1e8] --folder /tmp/store-speed

Makes (deterministically, once; what is in the folder already is used as it is) traces of 16 layers, E = 64, k = 8,
20 languages, prompts of 1,250 tokens: 1e8 events are 5,000 prompts. Each question is asked four times of an open
trace and the median of the last three is shown: wall-clock and, because machines are shared, CPU milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from moescope.kernels.counting import count_experts
from moescope.store import Trace, open_trace
from moescope.store.read.memo import Memo
from moescope.store.read.token_filter import ALL_TOKENS
from moescope.store.views.alignment.prompts import distributions
from moescope.store.write.synthetic import Synthetic, write_synthetic

LAYERS, K, TOKENS = 16, 8, 1250


def trace_of(folder: Path, events: int) -> tuple[Trace, float]:
    plan = Synthetic(
        prompts=max(20, events // LAYERS // TOKENS),
        tokens_per_prompt=TOKENS,
        layers=LAYERS,
        experts=64,
        top_k=K,
        languages=20,
        part_tokens=65536,
    )
    path = folder / f"events-{events}"
    started = time.process_time()
    write_synthetic(path, plan, resume=True)
    return open_trace(path), time.process_time() - started


def filtered_counts(trace: Trace) -> None:
    for batch in trace.iter_router(5, special=False):
        count_experts(batch.padded(), 64)


def all_layers(trace: Trace) -> None:
    for spec in trace.routers:
        for batch in trace.iter_router(spec.layer):
            count_experts(batch.padded(), 64)


def ids_and_weights(trace: Trace) -> None:
    for batch in trace.iter_router(5, columns=("experts", "weights")):
        count_experts(batch.padded(), 64, weights=batch.weights)


def mean_probabilities(trace: Trace) -> None:
    """What views of divergence start from: q of every prompt at every layer."""
    for q_PE in trace.in_threads(
        lambda spec: distributions(trace, spec.layer, spec.stream, ALL_TOKENS)[1], trace.routers
    ):
        assert abs(float(q_PE.sum()) - len(q_PE)) < 1e-6 * len(q_PE)


def new_heatmap(trace: Trace) -> None:
    """By sums that are not remembered, as after a change of what tokens count."""
    trace.memo = Memo()
    trace.view("load", by="language")


def questions(trace: Trace) -> dict[str, tuple[Callable[[], object], float]]:
    """Name → what to do, and millions of selected experts that it passes over."""
    layer = trace.num_tokens * K / 1e6
    ids = trace.prompts()["prompt_id"].to_pylist()
    others = itertools.cycle(ids[:: max(1, len(ids) // 7)])
    experts = itertools.cycle(range(7, 64, 9))
    found: dict[str, tuple[Callable[[], object], float]] = {
        "open": (lambda: open_trace(trace.url), 0),
        "first view after opening: heatmap by language": (
            lambda: open_trace(trace.url).view("load", by="language"),
            0,
        ),
        "heatmap by language, all layers: sums that are new": (lambda: new_heatmap(trace), 0),
        "the same once more": (lambda: trace.view("load", by="language"), 0),
        "difference of two groups, all layers, once more": (
            lambda: [trace.view("load", where={"group": [g]}) for g in ("even", "odd")],
            0,
        ),
        "mean probabilities of every prompt, all layers": (lambda: mean_probabilities(trace), 0),
        "one prompt's tokens, all layers: another prompt each time": (
            lambda: trace.view("prompt-tokens", prompt_id=next(others)),
            0,
        ),
        "the same prompt again": (lambda: trace.view("prompt-tokens", prompt_id=ids[1]), 0),
        "50 vocabulary tokens of an expert": (lambda: trace.view("expert-tokens", layer=5, expert=7), layer),
        "50 best contexts of an expert: another expert each time": (
            lambda: trace.view("expert-contexts", layer=5, expert=next(experts)),
            0,
        ),
        "counts of a layer, no special tokens": (lambda: filtered_counts(trace), layer),
        "gate weights of a layer": (lambda: ids_and_weights(trace), layer),
        "co-activation of a layer": (lambda: trace.view("co-activation", layer=5), layer),
        "transitions between two layers": (lambda: trace.view("transitions", layer=5), 2 * layer),
        "counts of all layers from events": (lambda: all_layers(trace), LAYERS * layer),
    }
    return found


def ask(question: Callable[[], object], times: int = 4) -> tuple[float, float]:
    """Median wall-clock and CPU milliseconds, the first time left out."""
    walls, cpus = [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        question()
        walls.append((time.perf_counter() - wall) * 1e3)
        cpus.append((time.process_time() - cpu) * 1e3)
    return statistics.median(walls[1:]), statistics.median(cpus[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=float, nargs="+", default=[1e6])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/store-speed"))
    arguments = parser.parse_args()
    for wanted in arguments.events:
        trace, made = trace_of(arguments.folder, int(wanted))
        size = sum(file.bytes for entry in trace.parts for file in entry.files.values())
        print(f"\n{trace.num_events:,} events, {trace.num_prompts:,} prompts, {len(trace.parts)} parts")
        print(
            f"{size / 1e6:,.0f} MB, {size / trace.num_events:.2f} bytes an event in all files; made in {made:.0f} CPU s"
        )
        print("\n| question | wall ms | CPU ms | M selections / CPU s |\n|---|---|---|---|")
        for name, (question, selections) in questions(trace).items():
            wall, cpu = ask(question)
            rate = f"{selections * 1e3 / cpu:,.0f}" if selections else ""
            print(f"| {name} | {wall:,.1f} | {cpu:,.1f} | {rate} |")
            sys.stdout.flush()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"\npeak memory of the process so far: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
