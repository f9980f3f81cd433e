"""Counting kernels beside what a user would otherwise write: DuckDB's unnest and whole-array NumPy.

    python benchmarks/kernels_counting.py [--tokens 2000000]

Prints medians of wall and CPU seconds, selected experts a second by each, and how many times less wall time
than the first row of a block. The kernels run on one thread, DuckDB on two.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import duckdb
import numpy as np
import pyarrow as pa

from moescope.kernels import compiled
from moescope.kernels.consistency import hit_curve, segment_hit_curve, window_uses
from moescope.kernels.counting import co_activation, count_experts, transitions

EXPERTS, SLOTS, GROUPS = 64, 8, 20


def routing(tokens: int, seed: int = 0) -> np.ndarray:
    """(T, k) uint8: skewed top-k choices, a pattern of 50,000 tokens repeated in another order each time."""
    rng = np.random.default_rng(seed)
    popularity = np.log(np.arange(1, EXPERTS + 1) ** -0.6)
    scores = rng.gumbel(size=(50_000, EXPERTS)) + popularity
    pattern = np.argsort(-scores, axis=1)[:, :SLOTS].astype(np.uint8)
    return np.concatenate([rng.permutation(pattern) for _ in range(-(-tokens // len(pattern)))])[:tokens]


def measured(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall and CPU seconds, after one call to warm up."""
    call()
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return statistics.median(wall), statistics.median(cpu)


def block(title: str, selected: int, calls: Mapping[str, Callable[[], object]], repeats: int) -> None:
    print(f"\n{title}")
    first = None
    for name, call in calls.items():
        wall, cpu = measured(call, repeats)
        first = first or wall
        rates = f"{selected / wall / 1e6:8.1f} M/s {selected / cpu / 1e6:8.1f} M/CPU s"
        print(f"  {name:32} {wall:7.3f} s {cpu:7.3f} CPU s {rates} {first / wall:6.1f} x")


def plain(call: Callable[[], object]) -> Callable[[], object]:
    """The same call without its compiled twin."""

    def without_twin() -> object:
        worth, compiled.WORTH_COMPILING = compiled.WORTH_COMPILING, float("inf")
        try:
            return call()
        finally:
            compiled.WORTH_COMPILING = worth

    return without_twin


def table_of(ids: np.ndarray, following: np.ndarray, groups: np.ndarray) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    lists = [pa.FixedSizeListArray.from_arrays(pa.array(a.reshape(-1)), SLOTS) for a in (ids, following)]
    columns = {"token": np.arange(len(ids)), "g": groups, "experts": lists[0], "following": lists[1]}
    connection.register("arrow", pa.table(columns))
    connection.execute("CREATE TABLE events AS SELECT * FROM arrow")
    return connection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    ids, following = routing(args.tokens), routing(args.tokens, seed=1)
    groups = np.sort(np.random.default_rng(2).integers(0, GROUPS, len(ids)).astype(np.int32))
    weights = np.full(ids.shape, 0.125, np.float16)
    few = slice(0, max(len(ids) // 10, 1))
    sql = table_of(ids, following, groups)
    print(f"{len(ids):,} tokens, k = {SLOTS}, E = {EXPERTS}: {ids.size:,} selected experts")

    def query(text: str) -> Callable[[], object]:
        return lambda: sql.execute(text).fetchall()

    def numpy_groups() -> np.ndarray:
        keys = groups[:, None].astype(np.int64) * EXPERTS + ids
        return np.bincount(keys.ravel(), minlength=GROUPS * EXPERTS)

    counts = "SELECT g, e, count(*) FROM (SELECT g, unnest(experts) AS e FROM events) GROUP BY ALL"
    calls = {
        "DuckDB unnest": query(counts),
        "NumPy, whole array": numpy_groups,
        "count_experts(groups)": lambda: count_experts(ids, EXPERTS, groups),
        "count_experts(groups, weights)": lambda: count_experts(ids, EXPERTS, groups, weights=weights),
        "count_experts": lambda: count_experts(ids, EXPERTS),
    }
    block("experts by group", ids.size, calls, args.repeats)

    pairs = (
        "SELECT a, b, count(*) FROM (SELECT unnest(experts) AS a, b FROM "
        "(SELECT experts, unnest({}) AS b FROM events WHERE token < {})) GROUP BY ALL"
    )
    some = ids[few].size
    calls = {
        "DuckDB unnest twice": query(pairs.format("experts", len(ids[few]))),
        "co_activation, plain": plain(lambda: co_activation(ids[few], EXPERTS)),
    }
    block("co-activation of a layer (a tenth of the tokens)", some, calls, args.repeats)
    block(
        "co-activation of a layer",
        ids.size,
        {"co_activation": lambda: co_activation(ids, EXPERTS)},
        args.repeats,
    )
    calls = {
        "DuckDB unnest twice": query(pairs.format("following", len(ids[few]))),
        "transitions, plain": plain(lambda: transitions(ids[few], following[few], EXPERTS, EXPERTS)),
    }
    block("transitions between two layers (a tenth of the tokens)", some, calls, args.repeats)
    calls = {"transitions": lambda: transitions(ids, following, EXPERTS, EXPERTS)}
    block("transitions between two layers", ids.size, calls, args.repeats)

    sequence = ids[:2000]
    compiled.WORTH_COMPILING = 0
    for name, call in {
        "LRU": lambda: hit_curve(sequence, EXPERTS, "lru"),
        "Belady": lambda: hit_curve(sequence, EXPERTS, "belady"),
        "segment cache, m = 16": lambda: segment_hit_curve(sequence, EXPERTS, 16),
    }.items():
        calls = {"plain": plain(call), "with the twin": call}
        block(f"hit curve of 2,000 tokens, all sizes: {name}", sequence.size, calls, args.repeats)
    calls = {"window_uses": lambda: window_uses(sequence, EXPERTS, 16)}
    block("SRP windows of 2,000 tokens, m = 16", sequence.size, calls, args.repeats)


if __name__ == "__main__":
    main()
