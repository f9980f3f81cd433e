"""How long a trace behind S3 takes to answer, beside what Arrow alone takes for the same columns of the same files.

    python benchmarks/object_store.py [--delay 0.03] [--rounds 5] [--folder /tmp/object-store]

A server on loopback (tests/store/object_server.py, a process of its own) answers every request after the delay.
Each round opens everything anew, footers included, and asks both sides in alternating order; the ratios are medians
of pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset as ds
from pyarrow import fs

from moescope.kernels.counting import count_experts
from moescope.store import open_trace
from moescope.store.files import footers, tables
from moescope.store.files.remote import allow_requests
from moescope.store.read.rollup_cache import ROW_COLUMNS
from moescope.store.write.synthetic import Synthetic, write_synthetic

PLAN = Synthetic(
    prompts=576, tokens_per_prompt=1250, layers=8, experts=64, top_k=8, languages=20, part_tokens=65536
)
LAYER = 2
SERVER = Path(__file__).resolve().parents[1] / "tests" / "store" / "object_server.py"


@contextmanager
def served(folder: Path, delay: float) -> Iterator[int]:
    """The port of a server of this folder."""
    command = [sys.executable, str(SERVER), str(folder), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def counts(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_counts") as answer:
        return json.load(answer)


def url(port: int) -> str:
    return f"s3://key:secret@bucket/trace?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"


def arrow_table(port: int, table: str, columns: list[str], layer: int | None = None) -> object:
    filesystem, root = fs.FileSystem.from_uri(url(port))
    kind = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    found = ds.dataset(f"{root}/{table}", filesystem=filesystem, format=kind)
    return found.to_table(
        columns=columns or None, filter=None if layer is None else ds.field("layer") == layer
    )


def fresh_trace(port: int):
    footers._footers, tables._columns = footers._Footers(), tables._Columns()
    return open_trace(url(port))


def our_load(port: int) -> None:
    fresh_trace(port).view("load", by="language")


def arrow_load(port: int) -> None:
    arrow_table(port, "prompts", [])
    arrow_table(port, "rollups", [*ROW_COLUMNS, "count", "weight_sum", "probability_sum"])


def our_layer(port: int) -> None:
    for batch in fresh_trace(port).iter_router(LAYER):
        count_experts(batch.padded(), PLAN.experts)


def arrow_layer(port: int) -> None:
    arrow_table(port, "prompts", [])
    arrow_table(port, "tokens", ["prompt", "position"])
    arrow_table(port, "events", ["experts"], layer=LAYER)


QUESTIONS: dict[str, tuple[Callable[[int], None], Callable[[int], None]]] = {
    "view `load` by language": (our_load, arrow_load),
    "experts of one layer": (our_layer, arrow_layer),
}


def ask(question: Callable[[int], None], port: int) -> tuple[float, dict[str, int]]:
    counts(port)
    started = time.perf_counter()
    question(port)
    return time.perf_counter() - started, counts(port)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delay", type=float, default=0.03)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/object-store"))
    arguments = parser.parse_args()
    write_synthetic(arguments.folder / "bucket" / "trace", PLAN, resume=True)
    allow_requests()
    with served(arguments.folder, arguments.delay) as port:
        trace = open_trace(url(port))
        print(
            f"{trace.num_events:,} events in {len(trace.parts)} parts, {arguments.delay * 1e3:g} ms a request\n"
        )
        print(
            "| question | moescope s | Arrow s | ratio | requests | most at once | MB |\n|---|---|---|---|---|---|---|"
        )
        for name, sides in QUESTIONS.items():
            for side in sides:
                side(port)
            pairs, told = [], ["", ""]
            for number in range(arguments.rounds):
                seconds = [0.0, 0.0]
                for at in (0, 1) if number % 2 else (1, 0):
                    seconds[at], found = ask(sides[at], port)
                    told[at] = (
                        f"{found.get('GET', 0) + found.get('LIST', 0) + found.get('HEAD', 0)}"
                        f" ({found.get('HEAD', 0)} HEAD) | {found['most']} | {found['bytes'] / 1e6:.1f}"
                    )
                pairs.append(seconds)
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"| {name} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} | {told[0]} |")
            print(f"| Arrow alone | | | | {told[1]} |", flush=True)


if __name__ == "__main__":
    main()
