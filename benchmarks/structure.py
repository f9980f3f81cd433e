"""How long the structure views take: five policies at all layers, what explains routing, and the rest.

    python benchmarks/structure.py --tokens 1e6 --folder /tmp/structure-speed

Makes (once; what is in the folder already is used as it is) a trace of 16 layers, E = 64, k = 8. Each view is asked
once of a newly opened trace in a process whose compiled loops are loaded, as in an app that has been used before; files
are in the system's cache. Wall-clock and CPU seconds; two threads read and compute.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

from moescope.store import Trace, open_trace
from moescope.store.write.synthetic import Synthetic, write_synthetic

LAYERS = 16
CACHES = {"policies": "lru,lfu,belady,segment"}
QUESTIONS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "five policies (LRU, LFU, Belady, SCH, SRP), all layers": [
        ("cache-hits", CACHES),
        ("local-consistency", {}),
    ],
    "- of it the four caches, all sizes": [("cache-hits", CACHES)],
    "- of it SRP at m = 4, 16, 64, 256": [("local-consistency", {})],
    "a cache that never changes, all sizes": [("cache-hits", {"policies": "fixed"})],
    "what explains the first expert, all layers": [("explained", {"by": "language"})],
    "specialisation and information of a tag, all layers": [
        ("specialisation", {"by": "language"}),
        ("tag-information", {"by": "language"}),
    ],
    "vocabulary of a layer": [("vocabulary", {"layer": 5})],
    "flows of four layers": [("flows", {"layers": "4:7"})],
    "map of experts by token": [("expert-map", {"by": "token"})],
    "neighbours of an expert": [("expert-neighbours", {"layer": 5, "expert": 7})],
}


def trace_of(folder: Path, tokens: int) -> Path:
    plan = Synthetic(
        prompts=max(20, tokens // 1250),
        tokens_per_prompt=1250,
        layers=LAYERS,
        experts=64,
        top_k=8,
        languages=20,
    )
    path = folder / f"tokens-{tokens}"
    write_synthetic(path, plan, resume=True)
    return path


def ask(trace: Trace, views: list[tuple[str, dict[str, Any]]]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for name, params in views:
        trace.view(name, **params)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e6])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/structure-speed"))
    arguments = parser.parse_args()
    warm = open_trace(trace_of(arguments.folder, 50_000))
    for views in QUESTIONS.values():
        ask(warm, views)
    for tokens in arguments.tokens:
        path = trace_of(arguments.folder, int(tokens))
        print(f"\n{open_trace(path).num_tokens:,} tokens, {LAYERS} layers, 64 experts, k = 8")
        print("\n| question | wall s | CPU s |\n|---|---|---|")
        for name, views in QUESTIONS.items():
            wall, cpu = ask(open_trace(path), views)
            print(f"| {name} | {wall:.1f} | {cpu:.1f} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
