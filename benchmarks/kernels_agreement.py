"""Agreement kernels beside what a user would otherwise write: sets in Python, and sorted rows in NumPy.

    python benchmarks/kernels_agreement.py [--tokens 1000000]

Prints medians of CPU seconds over 5 repeats (on one thread: what a quiet machine takes), and compared selections a
second (tokens · k).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from moescope.kernels.agreement import exchange, first_flipped, flipped, gate_distance, set_overlap

EXPERTS, SLOTS = 64, 8


def routings(tokens: int) -> tuple[np.ndarray, ...]:
    """Ids (T, k) uint8 and weights of a router, and of one that changed an expert in a tenth of the tokens."""
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((20_000, EXPERTS)), axis=1).astype(np.uint8)
    order = order[rng.integers(0, len(order), tokens)]
    ids_a, ids_b = order[:, :SLOTS], order[:, :SLOTS].copy()
    changed = rng.random(tokens) < 0.1
    ids_b[changed, -1] = order[changed, SLOTS]
    weights_a = -np.sort(-rng.random(ids_a.shape).astype(np.float32), axis=1)
    return ids_a, weights_a, ids_b, weights_a * rng.uniform(0.99, 1, ids_a.shape).astype(np.float32)


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def with_python(ids_a: np.ndarray, ids_b: np.ndarray) -> list[bool]:
    return [set(a) != set(b) for a, b in zip(ids_a.tolist(), ids_b.tolist(), strict=True)]


def with_sorting(ids_a: np.ndarray, ids_b: np.ndarray) -> np.ndarray:
    return (np.sort(ids_a, axis=1) != np.sort(ids_b, axis=1)).any(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    tokens = parser.parse_args().tokens
    a, g_a, b, g_b = routings(tokens)
    rows: dict[str, Callable[[], object]] = {
        "sets in Python": lambda: with_python(a, b),
        "NumPy, rows sorted": lambda: with_sorting(a, b),
        "flipped": lambda: flipped(a, b),
        "set_overlap": lambda: set_overlap(a, b),
        "first_flipped": lambda: first_flipped(a, b),
        "gate_distance": lambda: gate_distance(a, g_a, b, g_b),
        "exchange": lambda: exchange(a, b, EXPERTS),
    }
    for name, call in rows.items():
        taken = seconds(call)
        print(f"{name:20} {taken:7.3f} s  {tokens * SLOTS / taken / 1e6:8.1f} M selections/s")


if __name__ == "__main__":
    main()
