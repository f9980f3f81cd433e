"""What the alignment figures show, in words with their numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..text import words


def lines(table: pa.Table, pivot: str) -> str:
    """Where languages are nearest to the pivot and where farthest, and which language departs most."""
    rows = [row for row in table.to_pylist() if row["divergence"] is not None]
    if not rows:
        return "No language has translations of the pivot's texts."
    layers = sorted({row["layer"] for row in rows})
    mean = {layer: np.mean([r["divergence"] for r in rows if r["layer"] == layer]) for layer in layers}
    near, far = min(layers, key=mean.__getitem__), max(layers, key=mean.__getitem__)
    languages = sorted({row["language"] for row in rows})
    average = {
        language: float(np.mean([r["divergence"] for r in rows if r["language"] == language]))
        for language in languages
    }
    closest, farthest = min(languages, key=average.__getitem__), max(languages, key=average.__getitem__)
    most = max(row["units"] for row in rows)
    first = rows[0]
    return (
        f"Routing is nearest to {words.language_name(pivot)} in layer {near} (mean divergence {mean[near]:.3f}) and "
        f"farthest in layer {far} ({mean[far]:.3f}). Over all shown layers {words.language_name(closest)} is closest "
        f"({average[closest]:.3f}) and {words.language_name(farthest)} farthest ({average[farthest]:.3f}). "
        f"{words.amount(most, 'parallel unit')}, bands: 95 % bootstrap over units; E = {first['experts']}, "
        f"k = {first['top_k'] or 'varies'}. 1 would be one-hot routing to different experts; two disjoint choices "
        "stay well below it."
    )


def brief(table: pa.Table) -> str:
    """Mean divergence, nearest layer, E and k, in one line."""
    rows = [row for row in table.to_pylist() if row["divergence"] is not None]
    if not rows:
        return "No language has translations of the pivot's texts."
    mean = {
        layer: float(np.mean([row["divergence"] for row in rows if row["layer"] == layer]))
        for layer in sorted({row["layer"] for row in rows})
    }
    near = min(mean, key=mean.__getitem__)
    return (
        f"Mean over languages and layers {np.mean(list(mean.values())):.3f}, nearest in layer {near} "
        f"({mean[near]:.3f}); E = {rows[0]['experts']}, k = {rows[0]['top_k'] or 'varies'}."
    )


def matrix(table: pa.Table, window: tuple[int, int]) -> str:
    """The nearest and the farthest pair."""
    pairs = [
        r for r in table.to_pylist() if r["language_a"] < r["language_b"] and r["divergence"] is not None
    ]
    if not pairs:
        return "No two languages share a unit."
    near = min(pairs, key=lambda row: row["divergence"])
    far = max(pairs, key=lambda row: row["divergence"])
    return (
        f"Layers {window[0]} to {window[1]}: most alike are {_pair(near)}; least alike {_pair(far)}. "
        "Ordered by clustering, so that similar languages stand together."
    )


def _pair(row: dict) -> str:
    names = words.language_name(row["language_a"]), words.language_name(row["language_b"])
    return f"{names[0]} and {names[1]} ({row['divergence']:.3f})"


def correlations(table: pa.Table) -> str:
    """Pearson and Spearman r with their intervals."""
    parts = []
    for row in table.to_pylist():
        known = row["low"] is not None
        interval = f" (95 % {row['low']:+.2f} to {row['high']:+.2f})" if known else ""
        parts.append(f"{row['method'].capitalize()} r = {row['r']:+.2f}{interval}")
    languages = table["languages"][0].as_py()
    return f"{'; '.join(parts)}; {languages} languages. Correlation over few, related languages is not causation."


def spread(table: pa.Table, value: str, chance: float | None) -> str:
    """The range of a measure over layers, and the language at its top."""
    rows = table.to_pylist()
    if not rows:
        return "No sequences to show."
    low, high = min(rows, key=lambda row: row[value]), max(rows, key=lambda row: row[value])
    level = "" if chance is None else f" Independent uniform routing would give {chance:.3f}."
    return (
        f"From {low[value]:.3f} ({words.language_name(low['language'])}, layer {low['layer']}) to {high[value]:.3f} "
        f"({words.language_name(high['language'])}, layer {high['layer']}); mean over sequences.{level}"
    )


def kinds(table: pa.Table, tau: float) -> str:
    """How many experts of each kind there are."""
    total: dict[str, int] = {}
    for row in table.to_pylist():
        total[row["kind"]] = total.get(row["kind"], 0) + row["experts"]
    some = [f"{count} {kind}" for kind, count in total.items() if count]
    return f"At τ = {tau}: {words.listing(some) if some else 'no specialised'} experts in the shown layers."


def specialised(table: pa.Table) -> str:
    """The strongest specialisation."""
    top = max(table.to_pylist(), key=lambda row: row["delta"])
    who = "the task" if top["language"] is None else words.language_name(top["language"])
    sure = "" if top["low"] is None else f", 95 % {words.points(top['low'])} to {words.points(top['high'])}"
    return (
        f"Strongest: layer {top['layer']}, expert {top['expert']} for {who}: {words.points(top['delta'])} of tokens "
        f"more than the pivot's text{sure}. τ is a threshold on many noisy differences, not a test."
    )
