"""The alignment page's numbers at full size: 20 languages × 500 parallel units × 48 layers × 128 experts.

Makes rollups of random routing (61 million probabilities, no events), then times what the page asks for: cold, in a
fresh process each time, and warm with another pivot, as after a change of the control. Prints seconds (median of
--repeat) and peak memory. `--units 100` makes it five times smaller: cost should be linear in units.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from moescope.store import Part, RouterEvents, RouterSpec, RouterSums, TraceWriter
from moescope.store.synthetic import LANGUAGES

MEASURE = """
import json, resource, sys, time
from moescope.store import open_trace
start = time.perf_counter()
trace = open_trace(sys.argv[1])
trace.view("alignment", pivot="en")
cold = time.perf_counter() - start
start = time.perf_counter()
trace.view("alignment", pivot="de")
pivot = time.perf_counter() - start
start = time.perf_counter()
trace.view("alignment-matrix", layers="20:20")
matrix = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"cold": cold, "another pivot": pivot, "matrix of a layer": matrix, "peak GB": peak}))
"""


def write(folder: Path, units: int, layers: int, experts: int) -> None:
    """Rollups of random router probabilities, one part for every 50 units."""
    specs = [
        RouterSpec(layer=layer, num_experts=experts, top_k=8, router=f"layers.{layer}.gate")
        for layer in range(layers)
    ]
    rng = np.random.default_rng(0)
    with TraceWriter(
        str(folder),
        routers=specs,
        model={"name": "random"},
        prompt_set={"fingerprint": "random"},
        settings={},
    ) as out:
        for first in range(0, units, 50):
            out.write(_part(specs, range(first, min(first + 50, units)), experts, rng))
        out.finish()


def _part(specs: list[RouterSpec], units: range, experts: int, rng: np.random.Generator) -> Part:
    cells = [(unit, language) for unit in units for language in LANGUAGES]
    number = len(cells)
    prompt = np.arange(number, dtype=np.int32)
    zeros = np.zeros(number, np.uint8)
    sums = [
        RouterSums(
            layer=spec.layer, stream=spec.stream, prompt=prompt, phase=zeros, special=zeros.astype(bool),
            completion=zeros.astype(bool),
            probability_sum=rng.dirichlet(np.full(experts, 0.3), number).astype(np.float32),
            entropy_sum=np.ones(number), nan_tokens=np.zeros(number, np.int64),
        )
        for spec in specs
    ]  # fmt: skip
    ids = np.argsort(rng.random((number, experts)), axis=1)[:, :8].astype(np.uint8)
    events = [
        RouterEvents(
            layer=spec.layer, stream=spec.stream, prompt=prompt, position=np.zeros(number, np.int32), experts=ids,
            weights=np.full(ids.shape, 0.125, np.float16),
        )
        for spec in specs
    ]  # fmt: skip
    prompts = {
        "prompt_id": [f"{language}-{unit}" for unit, language in cells],
        "text": [""] * number,
        "language": [language for _, language in cells],
        "parallel_id": [str(unit) for unit, _ in cells],
    }
    tokens = {
        "prompt": prompt, "position": np.zeros(number, np.int32), "token_id": np.zeros(number, np.int32),
        "token": [""] * number, "phase": ["prefill"] * number, "special": zeros.astype(bool),
        "completion": zeros.astype(bool),
    }  # fmt: skip
    return Part(prompts=pa.table(prompts), tokens=pa.table(tokens), events=events, sums=sums)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "trace"
        write(folder, options.units, options.layers, options.experts)
        runs = []
        for _ in range(options.repeat):
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    size = f"{len(LANGUAGES)} languages × {options.units} units × {options.layers} layers × {options.experts} experts"
    print(f"{size}, median of {options.repeat}:")
    for name in runs[0]:
        print(f"  {name:>18}  {statistics.median(run[name] for run in runs):.2f}")


if __name__ == "__main__":
    main()
