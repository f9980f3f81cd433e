"""Does the tracer's memory grow with the number of prompts? Peak resident memory of a process that traces few or many.

    python benchmarks/trace_memory.py [--prompts 1000 50000] [--words 6] [--model FOLDER]

Each number of short prompts is traced by a process of its own, so that peaks don't hide each other. Beside the peak:
what the process held before the first batch (interpreter, model, and the prompt set itself, which is in memory), and
after the batches of the first, second and last third of the prompts (medians): whatever is kept per prompt would grow.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from moescope.store import sample_dir

MB = 2**20
WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "green",
    "hill",
    "and",
    "sang",
    "to",
    "some",
    "old",
    "stars",
    "in",
    "rain",
)
HEAD = "| prompts | tokens | before | in the first, second, last third | peak | on disk | seconds |"


def rows(number: int, words: int) -> list[dict[str, Any]]:
    """Prompts of some words each, all different."""
    length = len(WORDS)
    return [
        {
            "id": f"p{i}",
            "text": f"{i} " + " ".join(WORDS[(i * 7 + j * (1 + i % 5)) % length] for j in range(words)),
        }
        for i in range(number)
    ]


def resident() -> int:
    """Bytes held now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trace(number: int, words: int, model: str) -> dict[str, Any]:
    """Trace that many prompts here; what it took."""
    from moescope.tracer import PromptSet, load_model, trace_prompts

    loaded = load_model(model, dtype="float32")
    prompts = PromptSet.from_rows(rows(number, words))
    before = resident()
    held: list[tuple[float, int]] = []

    def note(progress: Any) -> None:
        held.append((progress.prompts / progress.total_prompts, resident()))

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = trace_prompts(loaded.model, loaded.tokenizer, prompts, f"{folder}/trace", progress=note)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    thirds = [[now for done, now in held if low < done <= low + 1 / 3] for low in (0, 1 / 3, 2 / 3)]
    return {
        "thirds": [statistics.median(third) if third else before for third in thirds],
        "prompts": summary.prompts, "tokens": summary.tokens, "before": before, "peak": peak(),
        "seconds": time.perf_counter() - start, "disk": size,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[1000, 50000])
    parser.add_argument("--words", type=int, default=6)
    parser.add_argument("--model", default=str(sample_dir() / "model"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(trace(options.one, options.words, options.model)))
        return
    print(f"{HEAD}\n|---|---|---|---|---|---|---|")
    for number in options.prompts:
        command = [sys.executable, __file__, "--one", str(number), "--words", str(options.words)]
        done = subprocess.run(
            [*command, "--model", options.model], check=True, capture_output=True, text=True
        )
        took = json.loads(done.stdout.splitlines()[-1])
        before, top, disk = (f"{took[name] / MB:,.0f} MB" for name in ("before", "peak", "disk"))
        thirds = ", ".join(f"{size / MB:,.0f}" for size in took["thirds"])
        print(
            f"| {took['prompts']:,} | {took['tokens']:,} | {before} | {thirds} MB | {top} | {disk} "
            f"| {took['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
