"""What a contrast shows, in words with its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..figures.thresholds import Threshold
from ..figures.thresholds import survivors as kept_of
from ..text import words

SURE = 0.05


def asked(names: tuple[str, str], sizes: tuple[int, int], measure: str, limit: Threshold) -> str:
    """The contrast in one line: who against whom, by what, and what stands out."""
    a, b = (f"{name} ({words.amount(size, 'prompt')})" for name, size in zip(names, sizes, strict=True))
    return f"A, {a}, against B, {b}, by {measure}. An expert stands out at {limit}."


def own_set(table: pa.Table, mine: Sequence[bool], name: str, *, sets: int = 2000, seed: int = 0) -> str:
    """How a set of experts that was chosen elsewhere responds, beside random sets of as many of the same layers.

    Args:
        table: the view `resonance`, all experts.
        mine: which of its rows are of the set.
    """
    score_N, own_N = np.array(table["score"].to_pylist(), np.float64), np.array(mine, bool)
    layer_N, rng = np.array(table["layer"].to_pylist()), np.random.default_rng(seed)
    if not own_N.any():
        return f"No expert of “{name}” lies in the shown layers."
    sums = np.zeros(sets)
    for layer in np.unique(layer_N[own_N]):
        here, many = score_N[layer_N == layer], int(own_N[layer_N == layer].sum())
        order = rng.random((sets, len(here))).argsort(1)[:, :many]
        sums += here[order].sum(1)
    low, high = np.quantile(sums / own_N.sum(), [0.025, 0.975])
    said = (
        f"“{name}”: {words.amount(int(own_N.sum()), 'expert')} with a mean score of {score_N[own_N].mean():+.4f}; "
        f"{low:+.4f} to {high:+.4f} for 95 % of random sets of as many experts of the same layers."
    )
    return said + " If the set was chosen on these prompts, this is no test of it."


def survivors(table: pa.Table, limit: Threshold) -> str:
    """How many experts stand out, to which side, and how sure the threshold leaves one."""
    kept = kept_of(table, limit)
    up = sum(score > 0 for score in kept["score"].to_pylist())
    have = "has" if kept.num_rows == 1 else "have"
    head = f"{words.count(kept.num_rows)} of {words.amount(table.num_rows, 'expert')} {have} {limit}: "
    head += f"{up} towards A, {kept.num_rows - up} towards B."
    if limit.kind == "q":
        return head
    sure = sum(q <= SURE for q in kept["q"].to_pylist())
    return f"{head} {sure} of them {'has' if sure == 1 else 'have'} q ≤ {SURE} as well; size alone is no evidence."


def of_expert(row: dict[str, Any] | None, target: str, rest: str) -> str:
    """One expert in a contrast: a row of the view `resonance`, None where the contrast left its layer out."""
    head = f"{target} against {rest}: "
    if row is None:
        return f"{head}its layer was not in the window."
    way = target if row["score"] > 0 else rest
    sure = f"q = {row['q']:.2g}" + ("" if row["q"] <= SURE else ", no finding")
    return f"{head}score {row['score']:+.3f}, towards {way} (effect {row['effect']:+.2f}, {sure}), rank {row['rank']}."


def scan(table: pa.Table, limit: Threshold, target: str, rest: str, rate: bool) -> str:
    """How many experts survive, and the strongest of each direction."""
    rows = table.to_pylist()
    found = kept_of(table, limit).to_pylist()
    have = "has" if len(found) == 1 else "have"
    of = words.amount(len(rows), "expert")
    head = f"{words.count(len(found))} of {of} {have} {limit} for {target} against {rest}."
    if not found:
        if limit.kind != "q":
            return head
        best = min(rows, key=lambda row: row["q"])
        return f"{head} The smallest q is {best['q']:.2g} ({_place(best)}): nothing here can be called a finding."
    up = max(found, key=lambda row: row["score"])
    down = min(found, key=lambda row: row["score"])
    parts = [
        f"towards {group}: {_place(row)} ({_means(row, rate)}, q = {row['q']:.2g})"
        for group, row in (("A", up), ("B", down))
        if (row["score"] > 0) == (group == "A")
    ]
    return f"{head} Strongest {'; '.join(parts)}."


def volcano(table: pa.Table, limit: Threshold) -> str:
    """How large a score goes with little evidence, and how small a one with much."""
    score, q = (np.asarray(table[name], dtype=float) for name in ("score", "q"))
    unsure = np.abs(score[q > SURE])
    text = f"Each point is an expert; in colour those with {limit}."
    if len(unsure) and len(unsure) < len(score):
        text += f" Scores up to {unsure.max():.3g} occur with q > {SURE}: size and certainty are two things."
    return text


def layers(table: pa.Table, limit: Threshold) -> str:
    """Which layer holds most of the experts that stand out."""
    found = Counter(kept_of(table, limit)["layer"].to_pylist())
    if not found:
        return f"No expert of any layer has {limit}."
    layer, most = max(sorted(found.items()), key=lambda item: item[1])
    return f"Layer {layer} holds most of those with {limit}: {most} of {found.total()}."


def maps(table: pa.Table, label: str) -> str:
    """How far single prompts are from one another, beside their groups."""
    top = max(table.to_pylist(), key=lambda row: row["value"] or 0.0)
    of = {"A": "the mean of A", "B": "the mean of B"}.get(top["map"], top["map"])
    return (
        f"One scale for all maps: {label}. The largest is {top['value']:.3g}, layer {top['layer']}, expert "
        f"{top['expert']} in {of}. A group's mean hides how prompts differ; the test compares the difference with that."
    )


def _place(row: dict[str, Any]) -> str:
    return f"layer {row['layer']}, expert {row['expert']}"


def _means(row: dict[str, Any], rate: bool) -> str:
    one, other = row["target_mean"], row["rest_mean"]
    if rate:
        return f"{words.percent(one)} of A's tokens, {words.percent(other)} of B's"
    return f"{one:.3g} against {other:.3g}"


def overlap(row: dict[str, Any]) -> str:
    """Whether the top experts of two contrasts coincide."""
    return (
        f"{row['shared']} of the top {row['top']} experts are the same (Jaccard {row['jaccard']:.2f}); "
        f"{row['expected']:.1f} would be by chance, p = {row['p']:.2g}."
    )
