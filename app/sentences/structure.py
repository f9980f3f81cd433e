"""What stands under the figures of the Structure page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..text import words

PUBLISHED_SRP: Mapping[str, float] = {
    "PowerMoE": 0.552, "Qwen3": 0.541, "Phi-3.5-MoE": 0.520, "OLMoE": 0.509, "Mixtral": 0.494, "MiniCPM-MoE": 0.489,
    "JetMoE": 0.475, "Jamba-Mini": 0.381, "DeepSeek-V2-Lite": 0.379, "DeepSeekMoE": 0.369, "Qwen2-MoE": 0.367,
    "Qwen1.5-MoE": 0.307, "OpenMoE": 0.288, "Switch": 0.193,
}  # fmt: skip
"""SRP at m = 16 of published models (arXiv 2505.16056)."""
FEWEST = 50
"""Tokens of a pair from which a sentence names it."""


def explained(table: pa.Table) -> str:
    """Where the token id says most and least, and what stands beside it.

    Args:
        table: the view `explained`.
    """
    rows = [row for row in table.to_pylist() if row["label"] == "token"]
    if not rows:
        last = [row for row in table.to_pylist() if row["layer"] == max(table["layer"].to_pylist())]
        beside = [f"{row['label']} {_with_interval(row)}" for row in last]
        tail = f" In layer {last[0]['layer']}: {words.listing(beside, most=6)}." if beside else ""
        return f"The trace has no token ids, so what they explain is unknown.{tail}"
    most, least = max(rows, key=lambda r: r["share"]), min(rows, key=lambda r: r["share"])
    first = f"The token id alone explains {_with_interval(most)} of the first expert in layer {most['layer']}"
    if most["layer"] != least["layer"]:
        first += f" and {_with_interval(least)} in layer {least['layer']}"
    beside = [
        f"{row['label']} {words.percent(row['share'])}"
        for row in table.to_pylist()
        if row["layer"] == least["layer"] and row["label"] != "token"
    ]
    tail = f" In layer {least['layer']}: {words.listing(beside, most=6)}." if beside else ""
    return f"{first}; unrelated labels would explain 0.{tail}"


def _with_interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return words.percent(row["share"])
    return f"{words.percent(row['share'])} ({words.percent(row['low'])} to {words.percent(row['high'])})"


def information(table: pa.Table, by: str) -> str:
    """Args: table: the view `tag-information`."""
    rows = table.to_pylist()
    if not rows:
        return f"Fewer than two values of {by} are selected: there is nothing to tell apart."
    best = max(rows, key=lambda row: row["information"])
    sure = sum(row["q_value"] < 0.05 for row in rows)
    return (
        f"In layer {best['layer']} the {by} of a prompt says {best['information']:.3f} nats of the experts that its "
        f"tokens use; exchanged between prompts it would say {best['chance']:.3f} (dashed: 95 % of exchanges stay "
        f"below). {sure} of {words.amount(len(rows), 'layer')} {'is' if sure == 1 else 'are'} above chance at q < 0.05."
    )


def spread(table: pa.Table, by: str) -> str:
    """Args: table: the view `specialisation`."""
    rows = table.to_pylist()
    if not rows:
        return f"No prompt of the selection has a {by}."
    if len({row["most"] for row in rows} | {row["least"] for row in rows}) < 2:
        return f"Fewer than two values of {by} are selected: there is nothing to tell apart."
    best = max(rows, key=lambda row: row["spread"])
    chance = f"; even routing would give {words.percent(best['chance'])}" if best["chance"] else ""
    return (
        f"Layer {best['layer']}, expert {best['expert']} differs most over {by}: it takes "
        f"{words.percent(best['most_share'])} of {words.value_name(by, best['most'])} tokens and "
        f"{words.percent(best['least_share'])} of {words.value_name(by, best['least'])} tokens{chance}."
    )


def flows(table: pa.Table) -> str:
    """Args: table: the view `flows`."""
    rows = [row for row in table.to_pylist() if row["lift"] is not None]
    if not rows:
        return "No token passes two of these layers."
    best = max(rows, key=lambda row: row["share"])
    pairs = len({row["from_layer"] for row in rows})
    shown = sum(row["share"] for row in rows) / pairs
    return (
        f"The strongest flow goes from layer {best['from_layer']}, expert {best['from_expert']} to layer "
        f"{best['to_layer']}, expert {best['to_expert']}: {words.percent(best['share'])} of tokens, {best['lift']:.1f} "
        f"times what independent layers would give. The flows drawn one by one carry {words.percent(shown)} of tokens."
    )


def paths(table: pa.Table) -> str:
    """Args: table: the view `paths`."""
    if not table.num_rows:
        return "No token passes all of these layers."
    best = table.slice(0, 1).to_pylist()[0]
    return (
        f"The most frequent path, {best['path']}, is taken by {words.amount(best['count'], 'token')} "
        f"({words.percent(best['share'])}) of {words.amount(best['prompts'], 'prompt')}; if the layers chose "
        f"independently, {best['expected']:,.1f} would take it."
    )


def path_groups(table: pa.Table, first: str) -> str:
    """Args: table: the view `path-groups`; first: what a token's first expert is."""
    rows = [row for row in table.to_pylist() if None not in row["experts"]]
    drawn = f"Each ribbon is a path of tokens in the colour of its first box; a token goes by its {first}."
    if not rows:
        return f"{drawn} No path drawn keeps to the experts told apart."
    best = max(rows, key=lambda row: row["count"])
    return (
        f"{words.amount(best['count'], 'token')} ({words.percent(best['share'])}) take {best['path']}, the most "
        "frequent path that keeps to the experts told apart; if the layers chose independently, "
        f"{best['expected']:,.1f} would. {drawn}"
    )


def pairs(table: pa.Table, a: str, b: str, layer: int, following: int, most: int) -> str:
    """Args: table: the view `co-activation` or `transitions`, its numbers of pairs called tokens."""
    rows = [row for row in table.to_pylist() if row["tokens"] >= FEWEST]
    if not rows:
        return f"No pair of experts has {FEWEST} tokens."
    best = max(rows, key=lambda row: row["lift"])
    drawn = len({row[a] for row in table.to_pylist()} | {row[b] for row in table.to_pylist()}) > most
    return (
        f"Expert {best[a]} of layer {layer} and expert {best[b]} of layer {following} go together most, of pairs with "
        f"{FEWEST} tokens or more: {words.amount(best['tokens'], 'token')}, {best['lift']:.1f} times what independent "
        f"experts would have.{f' The {most} most used experts are drawn.' if drawn else ''}"
    )


def repeats(table: pa.Table) -> str:
    """Args: table: the view `repeats`."""
    rows = table.to_pylist()
    if not rows:
        return "No sequence has two consecutive tokens."
    best = max(rows, key=lambda row: row["repeats"])
    even = f"even, independent routing would give {words.percent(best['even'])}"
    own = best["independent"]
    beside = (
        f"; independent tokens with this layer's load {words.percent(own)}, {even}" if own else f"; {even}"
    )
    return (
        f"Layer {best['layer']} repeats most: {words.percent(best['repeats'])} of consecutive tokens share one of "
        f"their first experts{beside}. Dashed: independent tokens{' with the same load' if own else ''}."
    )


def consistency(table: pa.Table, phase: str) -> str:
    """Args: table: the view `local-consistency`, rows of one phase."""
    rows = [row for row in table.to_pylist() if row["srp"] is not None]
    if not rows:
        return f"No {phase} sequence is as long as a window."
    lengths = sorted({row["m"] for row in rows})
    m = 16 if 16 in lengths else lengths[0]
    of = [row for row in rows if row["m"] == m]
    mean = float(np.mean([row["srp"] for row in of]))
    alone = float(np.mean([row["independent"] for row in of]))
    short = words.amount(of[0]["short"], "prompt")
    loads = sorted(row["max_over_mean"] for row in of)
    text = (
        f"At m = {m}, experts fixed for {m} tokens reach an SRP of {words.percent(mean)} (mean of "
        f"{words.amount(len(of), 'layer')}); load alone would give {words.percent(alone)} (the busiest expert takes "
        f"{loads[0]:.1f} to {loads[-1]:.1f} times the mean). {short} "
        f"{'is' if of[0]['short'] == 1 else 'are'} shorter than {m} tokens and left out."
    )
    return f"{text} {beside_published(mean)}" if m == 16 else text


def beside_published(srp: float) -> str:
    """The published models that stand next to a value of SRP at m = 16."""
    above = [(value, name) for name, value in PUBLISHED_SRP.items() if value >= srp]
    below = [(value, name) for name, value in PUBLISHED_SRP.items() if value < srp]
    near = [min(above)] if above else []
    near += [max(below)] if below else []
    told = words.listing(f"{name} {words.percent(value)}" for value, name in near)
    return f"Published at m = 16, on other text: {told} (arXiv 2505.16056)."


def caches(table: pa.Table, top_k: int | None, policy: str = "lru") -> str:
    """Args: table: from `cache_curve.pooled`."""
    rate = {(row["policy"], row["size"]): row["hit_rate"] for row in table.to_pylist()}
    largest = max((size for _, size in rate), default=0)
    sizes = [
        size
        for size in ([top_k, 2 * top_k] if top_k else [largest // 4, largest // 2])
        if size and size <= largest
    ]
    sizes = [size for size in sizes if (policy, size) in rate]
    if not sizes:
        return "No expert was accessed."
    told = [f"{words.percent(rate[policy, size])} with {words.amount(size, 'expert')}" for size in sizes]
    beside = [
        f"{name} {words.percent(rate[key, sizes[-1]])}"
        for key, name in (
            ("belady", "Belady"),
            ("segment", "SCH"),
            ("fixed", "the most used experts, never changed,"),
        )
        if (key, sizes[-1]) in rate
    ]
    first = f"An {policy.upper()} cache in each layer would serve, of all accesses, {words.listing(told)}."
    return f"{first} At {words.amount(sizes[-1], 'expert')}: {words.listing(beside)}." if beside else first


def expert_map(table: pa.Table, by: str) -> str:
    """Args: table: the view `expert-map`."""
    best = max(table.to_pylist(), key=lambda row: row["lift"] if row["count"] >= 100 else 0.0)
    what = "the token" if by == "token" else words.value_name(by, best["most"])
    most = f"{what} {best['most']!r}" if by == "token" else what
    return (
        f"{words.amount(table.num_rows, 'expert')}. The most selective one with 100 uses or more is layer "
        f"{best['layer']}, expert {best['expert']}: it takes {words.percent(best['most_share'])} of {most} tokens, "
        f"{best['lift']:.1f} times its share of all tokens."
    )


def drift(table: pa.Table) -> str:
    """Args: table: the view `load-drift`."""
    rows = [row for row in table.to_pylist() if row["batch"] is not None]
    if not rows:
        return "No tokens in the selection."
    far = max(rows, key=lambda row: row["moved"])
    whole = {row["layer"]: row for row in table.to_pylist() if row["batch"] is None}
    dead = sum(row["dead"] for row in whole.values())
    near = sum(row["near_dead"] for row in whole.values())
    return (
        f"Stretch {far['batch']} of layer {far['layer']} is farthest from the whole run: {words.percent(far['moved'])} "
        f"of uses go to other experts, and its busiest expert takes {far['max_over_mean']:.2f} times the mean (whole "
        f"run: {whole[far['layer']]['max_over_mean']:.2f}). Over the whole run {words.amount(dead, 'expert')} "
        f"{'is' if dead == 1 else 'are'} never used and {near - dead} used less than a tenth of an even share. "
        "Prompts that are sorted by language or topic drift by themselves."
    )


def influence(table: pa.Table) -> str:
    """Args: table: the view `load-influence`."""
    rows = [row for row in table.to_pylist() if row["change"] is not None]
    if not rows:
        return "With fewer than two prompts there is none to leave out."
    most = max(rows, key=lambda row: abs(row["change"]))
    return (
        f"Leaving out one prompt changes the busiest expert's load most in layer {most['layer']}: without "
        f"{most['prompt_id']} it is {most['without']:.2f} times the mean instead of {most['max_over_mean']:.2f}."
    )


def neighbours(table: pa.Table) -> str:
    """Args: table: the view `expert-neighbours`."""
    told = []
    for where, text in (("before", "Its tokens come from"), ("after", "and go next to")):
        rows = [row for row in table.to_pylist() if row["where"] == where]
        if rows:
            best = max(rows, key=lambda row: row["share"])
            told.append(
                f"{text} layer {best['layer']}, expert {best['expert']} ({words.percent(best['share'])} of them, "
                f"chance {words.percent(best['chance'])})"
            )
    return f"{' '.join(told)}." if told else "No neighbour shares enough tokens with it."
