"""The numbers and figures of docs/studies/structure.md: `python docs/studies/structure.py`.

Reads the bundled trace of the Universal Declaration of Human Rights; `--trace` takes another one. Writes the pictures
beside this file and prints the tables that the page quotes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from moescope.app import export
from moescope.app.figures.structure import over_layers
from moescope.app.figures.structure.cache_curve import cache_curves, pooled
from moescope.app.figures.structure.sankey import sankey_still
from moescope.app.sentences import structure as sentences
from moescope.store import Trace, open_trace, sample_dir

HERE = Path(__file__).parent
WINDOW = "0:3"


def save(chart: Any, name: str, title: str, say: str, source: str) -> None:
    """A picture beside this file."""
    data = export.to_svg(export.specification(chart, title=title, say=say, source=source))
    (HERE / f"{name}.svg").write_bytes(data)
    print(f"→ {name}.svg\n  {say}\n")


def print_by_layer(table: pa.Table, series: str, value: str, form: str = ".3f") -> None:
    """A row for each value of `series`, a column for each layer."""
    lines: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table.to_pylist():
        lines[row[series]][row["layer"]] = row[value]
    layers = sorted({layer for line in lines.values() for layer in line})
    print(f"| {value} | " + " | ".join(f"L{layer}" for layer in layers) + " |")
    print("|---|" + "---|" * len(layers))
    for name, line in lines.items():
        cells = [format(line[layer], form) if line.get(layer) is not None else "–" for layer in layers]
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def what_explains(trace: Trace, source: str) -> None:
    table = trace.view("explained", by="language")
    save(over_layers.explained_lines(table), "structure-explained", "Explained share of the first expert",
         sentences.explained(table), source)  # fmt: skip
    print_by_layer(table, "label", "share")
    tokens = [row for row in table.to_pylist() if row["label"] == "token"]
    print("plug-in share, without the correction:",
          " ".join(f"{row['information'] / row['entropy']:.3f}" for row in tokens), "\n")  # fmt: skip


def within_languages(trace: Trace) -> None:
    """The token id's share inside one language, where it can't stand for the language."""
    print("| token id, within | " + " | ".join(f"L{r.layer}" for r in trace.routers) + " |")
    print("|---|" + "---|" * len(trace.routers))
    for language in ("en", "de", "fr", "ru", "ja", "ar"):
        table = trace.view("explained", where={"language": [language]})
        shares = [row["share"] for row in table.to_pylist() if row["label"] == "token"]
        print(f"| {language} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    print()


def specialisation(trace: Trace) -> None:
    for by in ("language", "seen"):
        table = trace.view("tag-information", by=by)
        print(sentences.information(table, by))
        print_by_layer(table.append_column("of", pa.array([by] * table.num_rows)), "of", "share")
    print(sentences.spread(trace.view("specialisation", by="language"), "language"), "\n")
    for layer in (0, 4, 7):
        table = trace.view("vocabulary", layer=layer, least=8, limit=0)
        beaten = sum(table["beats_luck"].to_pylist())
        certain = sum(share == 1 for share in table["share"].to_pylist())
        print(f"layer {layer}: {table.num_rows} token ids with 8 occurrences or more; {beaten} beat luck, "
              f"{certain} always choose one expert")  # fmt: skip
    print()


def ways(trace: Trace, source: str) -> None:
    table = trace.view("flows", layers=WINDOW, limit=16)
    save(sankey_still(table), "structure-flows", f"Strongest flows, layers {WINDOW.replace(':', ' to ')}",
         sentences.flows(table), source)  # fmt: skip
    print(sentences.paths(trace.view("paths", layers=WINDOW)), "\n")
    repeats = trace.view("repeats")
    print(sentences.repeats(repeats))
    print_by_layer(repeats, "depth", "repeats")
    print_by_layer(repeats, "depth", "independent")


def local(trace: Trace, source: str) -> None:
    table = trace.view("local-consistency")
    save(over_layers.consistency_lines(table), "structure-consistency", "SRP by layer",
         sentences.consistency(table, "prompt"), source)  # fmt: skip
    print_by_layer(table, "m", "srp")
    print_by_layer(table, "m", "independent")
    curves = pooled(trace.view("cache-hits"))
    top_k = trace.routers[0].top_k
    save(cache_curves(curves, top_k=top_k), "structure-caches", "Hit rate of a cache of experts, all layers",
         sentences.caches(curves, top_k), source)  # fmt: skip
    print_sizes(curves)


def print_sizes(curves: pa.Table) -> None:
    rate = {(row["policy"], row["size"]): row["hit_rate"] for row in curves.to_pylist()}
    sizes = [size for size in (4, 8, 12, 16, 24) if ("lru", size) in rate]
    print("| policy | " + " | ".join(map(str, sizes)) + " |")
    print("|---|" + "---|" * len(sizes))
    for policy in dict.fromkeys(curves["policy"].to_pylist()):
        print(f"| {policy} | " + " | ".join(f"{rate[policy, size]:.3f}" for size in sizes) + " |")
    print()


def load(trace: Trace) -> None:
    print(sentences.drift(trace.view("load-drift")))
    print(sentences.influence(trace.view("load-influence")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", default=str(sample_dir() / "trace"))
    trace = open_trace(parser.parse_args().trace)
    source = f"sample model · {trace.num_prompts:,} prompts, {trace.num_tokens:,} tokens · moescope"
    what_explains(trace, source)
    within_languages(trace)
    specialisation(trace)
    ways(trace, source)
    local(trace, source)
    load(trace)


if __name__ == "__main__":
    main()
