"""Writes the measured tables of sample_data/README.md from sample_data/evaluation.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from recipe import SAMPLE_DATA

BEGIN, END = "<!-- measured: written by build/readme.py -->", "<!-- end of measured -->"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compression(result: dict) -> str:
    columns = ["bits_per_byte", "xz", "untrained"]
    rows = [
        [who, str(result["held_out_segments"][who]), *(f"{result[c][who]:.2f}" for c in columns)]
        for who in result["bits_per_byte"]
    ]
    means = [f"**{np.mean(list(result[c].values())):.2f}**" for c in columns]
    total = str(sum(result["held_out_segments"].values()))
    header = ["language", "held-out segments", "bits per byte", "xz -9", "untrained copy"]
    return table(header, [*rows, ["mean", total, *means]])


def load(result: dict) -> str:
    rows = [
        [str(layer), *(f"{100 * value:.1f} %" for value in (min(shares), np.median(shares), max(shares)))]
        for layer, shares in enumerate(result["load"])
    ]
    return table(["layer", "least used expert", "median", "most used"], rows)


def divergence(result: dict) -> str:
    by_language = {who: values for who, values in result["divergence_from_english"].items() if who != "en"}
    layers = len(next(iter(by_language.values())))
    rows = [[who, *(f"{value:.2f}" for value in values)] for who, values in by_language.items()]
    mean = [f"**{value:.2f}**" for value in np.mean(list(by_language.values()), axis=0)]
    return table(["language", *(f"layer {layer}" for layer in range(layers))], [*rows, ["mean", *mean]])


def removal(result: dict) -> str:
    extra = {**result["removal"]["extra"], "random": result["removal"]["random"]}
    names = list(result["removal"]["random"])
    rows = []
    for off, cost in extra.items():
        cells = {who: f"{round(cost[who], 2) + 0.0:+.2f}" for who in names}
        rows.append([off, *(f"**{cell}**" if who == off else cell for who, cell in cells.items())])
    return table(["experts off", *names], rows)


def measured(result: dict) -> str:
    return "\n\n".join([
        "### How well it predicts",
        compression(result),
        "### How evenly its experts are used",
        load(result),
        "### How far routing departs from English",
        divergence(result),
        "### What its language experts are worth",
        removal(result),
    ])  # fmt: skip


def filled(text: str, tables: str) -> str:
    """`text` with what stands between the two markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the text lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluation", type=Path, default=SAMPLE_DATA / "evaluation.json")
    parser.add_argument("--readme", type=Path, default=SAMPLE_DATA / "README.md")
    options = parser.parse_args()
    tables = measured(json.loads(options.evaluation.read_text(encoding="utf-8")))
    options.readme.write_text(filled(options.readme.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
