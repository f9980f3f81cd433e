"""The numbers and figures of docs/studies/multilingual.md: `python docs/studies/multilingual.py`.

Reads the bundled trace of the Universal Declaration of Human Rights; `--trace` takes another one with the same
columns. Writes the pictures beside this file and prints the tables that the page quotes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from moescope.app import export
from moescope.app.figures import alignment as figures
from moescope.app.sentences import alignment as sentences_alignment
from moescope.app.text import words
from moescope.kernels.alignment import correlation
from moescope.store import Trace, open_trace, sample_dir

HERE = Path(__file__).parent
MIDDLE = "2:5"


def save(chart, name: str, title: str, say: str, source: str) -> None:
    """A picture beside this file."""
    data = export.to_svg(export.specification(chart, title=title, say=say, source=source))
    (HERE / f"{name}.svg").write_bytes(data)
    print(f"→ {name}.svg\n  {say}\n")


def by_language(table: pa.Table, value: str) -> dict[str, list[float]]:
    """language → its values in layer order."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in table.to_pylist():
        found[row["language"]].append((row["layer"], row[value]))
    return {language: [number for _, number in sorted(pairs)] for language, pairs in found.items()}


def print_lines(lines: dict[str, list[float]], seen: dict[str, str]) -> None:
    layers = len(next(iter(lines.values())))
    print("| language | seen | " + " | ".join(f"L{i}" for i in range(layers)) + " |")
    print("|---|---|" + "---|" * layers)
    for language in sorted(lines, key=lambda code: np.mean(lines[code])):
        cells = " | ".join(f"{number:.3f}" for number in lines[language])
        print(f"| {words.language_name(language)} | {seen.get(language, '')} | {cells} |")
    print()


def seen_languages(trace: Trace) -> dict[str, str]:
    """language → yes or no: whether the model was trained on it."""
    rows = trace.prompts().select(["language", "tags"]).to_pylist()
    return {row["language"]: dict(row["tags"]).get("seen", "") for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", default=str(sample_dir() / "trace"))
    trace = open_trace(parser.parse_args().trace)
    source = f"{trace.num_prompts:,} prompts, {trace.num_tokens:,} tokens · moescope"
    seen = seen_languages(trace)

    table = trace.view("alignment", pivot="en")
    say = sentences_alignment.lines(table, "en")
    save(figures.by_layer(table, "divergence", label="divergence from English", width=900), "divergence",
         "Routing divergence from English by layer", say, source)  # fmt: skip
    lines = by_language(table, "divergence")
    print_lines(lines, seen)
    for name, wanted in (("seen", "yes"), ("unseen", "no")):
        of = [
            lines[code]
            for code in lines
            if str(seen.get(code)).lower() in (wanted, str(wanted == "yes").lower())
        ]
        if of:
            print(f"{name} languages ({len(of)}): " + " ".join(f"{x:.3f}" for x in np.mean(of, axis=0)))

    matrix = trace.view("alignment-matrix", layers=MIDDLE)
    low, high = (int(end) for end in MIDDLE.split(":"))
    say = sentences_alignment.matrix(matrix, (low, high))
    save(
        figures.matrix(matrix, width=560), "matrix", f"Between languages, layers {low} to {high}", say, source
    )

    for view, value, label in (
        ("routing-entropy", "entropy", "entropy of a sequence's mean p, nats"),
        ("routing-consistency", "consistency", "experts that two tokens share"),
    ):
        found = trace.view(view)
        say = sentences_alignment.spread(found, value, None)
        save(figures.by_layer(found, value, label=label, width=900, height=260), value, view, say, source)

    counts = trace.view("specialised-counts")
    for tau in (0.2, 0.3, 0.5):
        rows = [row for row in counts.to_pylist() if abs(row["tau"] - tau) < 1e-9]
        total: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            total[row["kind"]].append(row["experts"])
        print(f"τ = {tau}: " + "; ".join(f"{kind} {numbers}" for kind, numbers in total.items()))

    tokens = token_cost(trace)
    x = np.array([np.mean(lines[code]) for code in lines])
    y = np.array([tokens[code] for code in lines])
    for method in ("pearson", "spearman"):
        found_r = correlation(x, y, method)
        print(
            f"mean divergence and tokens per English token, {method}: r = {found_r.r:+.2f} "
            f"({found_r.low:+.2f} to {found_r.high:+.2f}), n = {found_r.n}"
        )


def token_cost(trace: Trace) -> dict[str, float]:
    """language → tokens of its texts over those of the English ones: what the tokenizer makes of it."""
    query = """
        SELECT p.language, count(*)::DOUBLE AS tokens FROM tokens t JOIN prompts p USING (prompt_id) GROUP BY 1
    """
    rows = trace.sql(query).to_pylist()
    of = {row["language"]: row["tokens"] for row in rows}
    return {language: tokens / of["en"] for language, tokens in of.items()}


if __name__ == "__main__":
    main()
