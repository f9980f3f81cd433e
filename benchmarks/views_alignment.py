"""The alignment page's numbers at full size: 20 languages × 500 parallel units × 48 layers × 128 experts.

Makes rollups of random routing (61 million probabilities, one event a prompt and layer), then times what the page
asks for: cold, in a fresh process each time, and again after a change of one control. Prints wall-clock and CPU seconds
(median of --repeat) and peak memory. `--units 100` makes it five times smaller: cost should be linear in units.
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
from moescope.store.write.synthetic import LANGUAGES

MEASURE = """
import json, resource, sys, time
from moescope.store import open_trace

def page(trace, pivot):
    trace.view("alignment", pivot=pivot)
    trace.view("alignment-matrix", pivot=pivot)
    trace.view("routing-entropy")
    trace.view("routing-consistency")
    trace.view("specialised-counts", pivot=pivot)
    trace.view("specialised-experts", pivot=pivot)

def seconds(call):
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return [time.perf_counter() - wall, time.process_time() - cpu]

found = {}
if sys.argv[2] == "lines":
    found["lines of one pivot, cold"] = seconds(lambda: open_trace(sys.argv[1]).view("alignment", pivot="en"))
    print(json.dumps(found))
    sys.exit()
trace = open_trace(sys.argv[1])
found["the whole page, cold"] = seconds(lambda: page(trace, "en"))
found["another pivot: lines"] = seconds(lambda: trace.view("alignment", pivot="de"))
found["another pivot: specialised experts"] = seconds(lambda: trace.view("specialised-counts", pivot="de"))
found["another window of layers: matrix"] = seconds(lambda: trace.view("alignment-matrix", layers="20:30"))
found["another τ: specialised experts"] = seconds(lambda: trace.view("specialised-experts", tau=0.2))
found["the whole page again"] = seconds(lambda: page(trace, "en"))
found["peak memory, GB"] = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]
print(json.dumps(found))
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


def _measured(folder: Path, what: str) -> dict[str, list[float]]:
    """Seconds in a fresh process."""
    command = [sys.executable, "-c", MEASURE, str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--trace", type=Path, help="where to keep the trace, or where it is already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.trace or Path(place) / "trace"
        if not folder.exists():
            write(folder, options.units, options.layers, options.experts)
        runs = []
        for _ in range(options.repeat):
            runs.append(_measured(folder, "lines") | _measured(folder, "page"))
    size = f"{len(LANGUAGES)} languages × {options.units} units × {options.layers} layers × {options.experts} experts"
    print(f"{size}, median of {options.repeat}\n\n| | wall s | CPU s |\n|---|---|---|")
    for name in runs[0]:
        medians = [statistics.median(values) for values in zip(*(run[name] for run in runs), strict=True)]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in medians)} |")


if __name__ == "__main__":
    main()
