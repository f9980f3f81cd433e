"""Bytes an event, write time and read time of the layouts that were tried for routing events.

    python benchmarks/store_layout.py [--events 250000]

The workload is OLMoE-like: 64 experts, 8 used, skewed differently in each layer, weights softmax-normalised over
the chosen, rounded to float16. `floor` is log2 of the number of ordered choices: 47.3 bits = 5.9 bytes an event
for an even load; skew takes a little off.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moescope.store import open_trace
from moescope.store.files.layout import ROWS_PER_GROUP
from moescope.store.write.synthetic import Synthetic, synthetic_parts, write_synthetic

E, K, LAYERS = 64, 8, 16
FLOOR = math.log2(math.perm(E, K)) / 8


@dataclass
class Events:
    prompt: np.ndarray
    position: np.ndarray
    layer: np.ndarray
    ids: np.ndarray
    weights: np.ndarray


def make_events(events: int) -> tuple[Synthetic, Events]:
    tokens = events // LAYERS
    plan = Synthetic(
        prompts=max(4, tokens // 250),
        tokens_per_prompt=250,
        layers=LAYERS,
        experts=E,
        top_k=K,
        languages=20,
        part_tokens=10**9,
    )
    part = next(synthetic_parts(plan))
    return plan, Events(
        prompt=np.concatenate([e.prompt for e in part.events]),
        position=np.concatenate([e.position for e in part.events]),
        layer=np.concatenate([np.full(len(e.prompt), e.layer, np.int32) for e in part.events]),
        ids=np.concatenate([e.experts for e in part.events]).astype(np.uint8),
        weights=np.concatenate([e.weights for e in part.events if e.weights is not None]),
    )


def keys(events: Events) -> dict[str, pa.Array]:
    return {name: pa.array(getattr(events, name)) for name in ("prompt", "position", "layer")}


def lists(values: np.ndarray, fixed: bool) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    kind = pa.field("element", flat.type, nullable=False)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(kind, K))
    offsets = pa.array(np.arange(0, len(flat) + 1, K, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, flat, type=pa.list_(kind))


def parquet(table: pa.Table, **options) -> bytes:
    sink = io.BytesIO()
    settings = {"compression": "zstd", "compression_level": 3, "row_group_size": ROWS_PER_GROUP}
    pq.write_table(table, sink, **(settings | options))
    return sink.getvalue()


DICTIONARY_KEYS = ["prompt", "layer"]
IDS, WEIGHTS = "experts.list.element", "weights.list.element"


def json_lines(e: Events) -> bytes:
    rows = []
    for prompt, position, layer, ids, weights in zip(
        e.prompt.tolist(),
        e.position.tolist(),
        e.layer.tolist(),
        e.ids.tolist(),
        e.weights.tolist(),
        strict=True,
    ):
        for expert, weight in zip(ids, weights, strict=True):
            row = {"prompt": prompt, "position": position, "layer": layer, "expert": expert, "weight": weight}
            rows.append(json.dumps(row))
    return "\n".join(rows).encode()


def long_table(e: Events) -> bytes:
    repeated = {name: pa.array(np.repeat(getattr(e, name), K)) for name in ("prompt", "position", "layer")}
    repeated |= {
        "expert": pa.array(e.ids.reshape(-1)),
        "weight": pa.array(e.weights.astype(np.float32).reshape(-1)),
    }
    return parquet(pa.table(repeated))


def duckdb_long(e: Events) -> bytes:
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(f"{folder}/x.duckdb") as connection:
        table = pq.read_table(pa.BufferReader(long_table(e)))
        connection.register("t", table)
        connection.execute("CREATE TABLE events AS SELECT * FROM t")
        connection.execute("CHECKPOINT")
        connection.close()
        return Path(f"{folder}/x.duckdb").read_bytes()


def wide(e: Events, *, fixed: bool, weights: str | None, ids_split: bool, **options) -> bytes:
    columns = keys(e) | {"experts": lists(e.ids, fixed)}
    encoding = {}
    dictionary = list(DICTIONARY_KEYS)
    if ids_split:
        encoding[IDS] = "BYTE_STREAM_SPLIT"
    else:
        dictionary.append(IDS)
    if weights is not None:
        kind, _, split = weights.partition(" ")
        columns["weights"] = lists(e.weights.astype(kind), fixed)
        if split:
            encoding[WEIGHTS] = "BYTE_STREAM_SPLIT"
    return parquet(pa.table(columns), use_dictionary=dictionary, column_encoding=encoding, **options)


def bitmap(e: Events) -> bytes:
    bits = np.zeros(len(e.ids), np.uint64)
    for slot in range(K):
        bits |= np.uint64(1) << e.ids[:, slot].astype(np.uint64)
    return parquet(pa.table(keys(e) | {"experts": pa.array(bits)}), use_dictionary=DICTIONARY_KEYS)


LAYOUTS: dict[str, Callable[[Events], bytes]] = {
    "JSON, a line a selection": json_lines,
    "DuckDB file, a row a selection": duckdb_long,
    "Parquet, a row a selection": long_table,
    "Parquet lists, pyarrow's defaults, float16": lambda e: parquet(
        pa.table(keys(e) | {"experts": lists(e.ids, False), "weights": lists(e.weights, False)})
    ),
    "fixed lists: ids dictionary, float16 plain": lambda e: wide(
        e, fixed=True, weights="float16", ids_split=False
    ),
    "fixed lists: ids dictionary, float16 split": lambda e: wide(
        e, fixed=True, weights="float16 split", ids_split=False
    ),
    "lists: ids dictionary, float16 split": lambda e: wide(
        e, fixed=False, weights="float16 split", ids_split=False
    ),
    "lists: ids split, float16 split": lambda e: wide(
        e, fixed=False, weights="float16 split", ids_split=True
    ),
    "ids only, dictionary": lambda e: wide(e, fixed=False, weights=None, ids_split=False),
    "ids only, split": lambda e: wide(e, fixed=False, weights=None, ids_split=True),
    "ids only, one 64-bit map (order lost)": bitmap,
}


def measure(name: str, make: Callable[[Events], bytes], events: Events) -> list[str]:
    started = time.process_time()
    content = make(events)
    wrote = time.process_time() - started
    read, by_duckdb = "", ""
    if content[:4] == b"PAR1":
        started = time.process_time()
        pq.read_table(pa.BufferReader(content), use_threads=False)
        read = f"{time.process_time() - started:.2f}"
        by_duckdb = duckdb_reads(content)
    count = len(events.ids)
    return row(
        name,
        len(content) / count,
        wrote * 1e6 / count,
        read and f"{float(read) * 1e6 / count:.2f}",
        by_duckdb,
    )


def duckdb_reads(content: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file, duckdb.connect() as connection:
        file.write(content)
        file.flush()
        try:
            connection.execute(f"SELECT count(COLUMNS(*)) FROM '{file.name}'").fetchall()
        except duckdb.Error:
            return "no"
        return "yes"


def row(name: str, size: float, wrote: float, read: str, by_duckdb: str) -> list[str]:
    return [name, f"{size:.2f}", f"{size / FLOOR:.1f}", f"{wrote:.2f}" if wrote else "", read, by_duckdb]


def chosen(plan: Synthetic) -> list[list[str]]:
    """The store as it is: its own writer, reader and files."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        write_synthetic(f"{folder}/t", plan)
        both = time.process_time() - started
        started = time.process_time()
        parts = list(synthetic_parts(plan))
        made = time.process_time() - started
        del parts
        trace = open_trace(f"{folder}/t")
        count = trace.num_events
        started = time.process_time()
        for spec in trace.routers:
            for _ in trace.iter_router(spec.layer, columns=("experts", "weights")):
                pass
        read = time.process_time() - started
        bytes_of = {
            table: sum(entry.files[table].bytes for entry in trace.parts) for table in ("events", "rollups")
        }
        columns = column_bytes(Path(folder) / "t" / "events")
        content = duckdb_reads((Path(folder) / "t" / "events" / "part-00000.parquet").read_bytes())
        rows = [
            row(
                "chosen: lists, ids split, float32 split (zstd 1)",
                bytes_of["events"] / count,
                (both - made) * 1e6 / count,
                f"{read * 1e6 / count:.2f}",
                content,
            )
        ]
        for name in ("experts", "weights"):
            rows.append(row(f"    of it {name}", columns[name] / count, 0, "", ""))
        key_bytes = sum(size for name, size in columns.items() if name not in ("experts", "weights"))
        rows.append(row("    of it keys", key_bytes / count, 0, "", ""))
        rows.append(
            row("    rollups beside it (250 tokens a prompt)", bytes_of["rollups"] / count, 0, "", "")
        )
        return rows


ROLLUP_ENCODINGS = [
    ("BYTE_STREAM_SPLIT", "zstd"),
    ("BYTE_STREAM_SPLIT", "lz4"),
    ("BYTE_STREAM_SPLIT", "none"),
    ("PLAIN", "zstd"),
    ("PLAIN", "lz4"),
    ("PLAIN", "none"),
]


def rollup_encodings(folder: Path) -> list[list[str]]:
    """Bytes and nanoseconds of reading a number of two columns of rollups, by encoding."""
    source = pq.ParquetFile(next(folder.iterdir()))
    rows = []
    for encoding, compression in ROLLUP_ENCODINGS:
        cells = [encoding, compression]
        for name in ("probability_sum", "count"):
            table = source.read(columns=[name])
            path, sink = f"{name}.list.element", io.BytesIO()
            how = {"column_encoding": {path: encoding}, "use_dictionary": False, "compression": compression}
            pq.write_table(table, sink, write_page_checksum=True, **how)
            numbers, content = len(table[name].combine_chunks().flatten()), pa.BufferReader(sink.getvalue())
            seconds = []
            for _ in range(9):
                started = time.process_time()
                pq.read_table(content, page_checksum_verification=True, use_threads=False)
                seconds.append(time.process_time() - started)
            cells += [f"{sink.tell() / numbers:.2f}", f"{statistics.median(seconds) / numbers * 1e9:.1f}"]
        rows.append(cells)
    return rows


def column_bytes(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for path in folder.iterdir():
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                column = metadata.row_group(group).column(at)
                name = column.path_in_schema.split(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=256_000)
    arguments = parser.parse_args()
    plan, events = make_events(arguments.events)
    print(f"{len(events.ids):,} events, E = {E}, k = {K}; floor for ordered ids {FLOOR:.2f} bytes\n")
    print("| layout | bytes/event | × floor | write CPU s/M | read CPU s/M | DuckDB reads it |")
    print("|---|---|---|---|---|---|")
    for name, make in LAYOUTS.items():
        print("| " + " | ".join(measure(name, make, events)) + " |", flush=True)
    for cells in chosen(plan):
        print("| " + " | ".join(cells) + " |", flush=True)
    print("\n| rollups | compression | probability: bytes | read ns | count: bytes | read ns |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(f"{folder}/t", replace(plan, prompts=1000, tokens_per_prompt=50))
        for cells in rollup_encodings(Path(folder) / "t" / "rollups"):
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
