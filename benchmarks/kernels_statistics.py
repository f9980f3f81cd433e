"""Statistical kernels at the sizes of the alignment and resonance pages.

    python benchmarks/kernels_statistics.py [--units 50]

Prints medians of wall and CPU seconds. The alignment page of 20 languages x 500 parallel units x 48 layers x 128
experts is scaled from `--units` (the cost is linear in them).
"""

import argparse
from collections.abc import Callable

import numpy as np
from kernels_counting import measured

from moescope.kernels.alignment import bootstrap_interval, clustering_order, correlation, routing_divergence
from moescope.kernels.resonance import resonance

LANGUAGES, UNITS, LAYERS, EXPERTS = 20, 500, 48, 128


def row(name: str, call: Callable[[], object], times: float = 1.0) -> None:
    wall, cpu = measured(call, 3)
    scaled = "" if times == 1 else f"   (x {times:g}: {wall * times:.2f} s, {cpu * times:.2f} CPU s)"
    print(f"{name:58} {wall:7.3f} s {cpu:7.3f} CPU s{scaled}")


def textbook_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    def h(x: np.ndarray) -> np.ndarray:
        return -np.sum(x * np.log(x), -1)

    mean = (h(p) + h(q)) / 2
    return (h((p + q) / 2) - mean) / (np.log(p.shape[-1]) - mean)


def looped_permutations(maps_PM: np.ndarray, labels_P: np.ndarray, permutations: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    observed = np.abs(maps_PM[labels_P].mean(0) - maps_PM[~labels_P].mean(0))
    reached = np.ones(maps_PM.shape[1])
    for _ in range(permutations):
        shuffled = rng.permutation(labels_P)
        reached += np.abs(maps_PM[shuffled].mean(0) - maps_PM[~shuffled].mean(0)) >= observed
    return reached / (permutations + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, default=50)
    units = parser.parse_args().units
    rng = np.random.default_rng(0)
    q = rng.gamma(0.3, size=(LANGUAGES, units, LAYERS, EXPERTS)).astype(np.float32) + np.float32(1e-4)
    q /= q.sum(-1, keepdims=True)
    times = UNITS / units
    row("routing_divergence, 20 languages against a pivot", lambda: routing_divergence(q, q[0]), times)
    row("  the textbook formula in float32, without checks", lambda: textbook_divergence(q, q[0]), times)
    values = rng.random((UNITS, LANGUAGES * LAYERS))
    row("bootstrap_interval, 500 units x 960 lines, 2,000 resamples", lambda: bootstrap_interval(values))
    row("bootstrap_interval, the same, 1,000 resamples", lambda: bootstrap_interval(values, resamples=1000))
    score, mean = rng.random((2, LANGUAGES))
    row("correlation (Spearman) over 20 languages", lambda: correlation(score, mean, "spearman"))
    distance = np.abs(score[:, None] - score)
    row("clustering_order of 20 languages", lambda: clustering_order(distance))

    maps = rng.random((200, 58, 256), dtype=np.float32)
    labels = np.arange(200) % 2
    pairs = np.arange(200) // 2
    print("\n58 layers x 256 experts, 200 prompts, 2,000 permutations, 200 bootstraps")
    row("resonance", lambda: resonance(maps, labels, 1))
    row("resonance, 100 pairs", lambda: resonance(maps, labels, 1, pairs=pairs))
    row("resonance, refined", lambda: resonance(maps, labels, 1, refine=True))
    flat = maps.reshape(200, -1).astype(np.float64)
    row("  a loop over permutations (p-values only)", lambda: looped_permutations(flat, labels == 1, 20), 100)


if __name__ == "__main__":
    main()
