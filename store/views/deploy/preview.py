"""What a live model is asked, to show what pruning costs: choices by one half of the texts, prompts of the other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DecisionRefused
from ...read.token_filter import TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import LayerExpert
from ..layers import layers_of
from .halves import halves
from .scores import kept_count, kept_experts, scores_of

WHOLE = "all experts"


@dataclass(frozen=True)
class PrunePlan:
    """Choices of as many experts in each layer, and prompts that none of them was made by."""

    kept: dict[str, list[LayerExpert]]
    """By name: the score, frequency, and `random 1`, ..."""
    prompts: list[dict[str, Any]]
    """id, text and language."""
    note: str


def prune_plan(
    trace: TraceRows, *, keep: float, score: str, layers: str | None, stream: str, tokens: TokenFilter, draws: int = 3,
    most: int = 48, seed: int = 0,
) -> PrunePlan:  # fmt: skip
    """What to ask.

    Args:
        keep: share of the experts of a layer that stay.
        most: prompts, from every language in turn.
    Raises:
        DecisionRefused: a score that the trace does not give, or no prompt with a text to ask.
    """
    parts = halves(trace, tokens, None, seed)
    rng, kept, note = np.random.default_rng(seed), defaultdict(list), parts.note
    for layer in layers_of(trace, layers, stream):
        found = scores_of(trace, layer, stream, tokens, parts.fit_P)
        if score not in found:
            found |= scores_of(trace, layer, stream, tokens)
            note = f"{parts.note} {score} comes from the expert sheet, which saw prompts of both parts."
        if score not in found:
            raise DecisionRefused(f"the trace has no {score}; run `moescope weigh MODEL --trace TRACE`")
        left = kept_count(keep, len(found[score]))
        for name in dict.fromkeys((score, "frequency")):
            kept[name] += [LayerExpert(layer, e) for e in kept_experts(found[name], left).tolist()]
        for draw in range(draws):
            drawn = sorted(rng.permutation(len(found[score]))[:left].tolist())
            kept[f"random {draw + 1}"] += [LayerExpert(layer, e) for e in drawn]
    return PrunePlan(dict(kept), _prompts(trace, parts.report_P, most, rng), note)


def _prompts(
    trace: TraceRows, report_P: np.ndarray, most: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    rows = trace.prompts().select(["prompt_id", "text", "language"]).to_pylist()
    by_language: dict[str, list[int]] = defaultdict(list)
    for at in rng.permutation(np.flatnonzero(report_P)).tolist():
        if rows[at]["text"]:
            by_language[rows[at]["language"] or "none"].append(at)
    turns = max(map(len, by_language.values()), default=0)
    order = [at[turn] for turn in range(turns) for at in by_language.values() if turn < len(at)]
    if not order:
        raise DecisionRefused("no held-out prompt has its text in the trace")
    return [
        {"id": rows[at]["prompt_id"], "text": rows[at]["text"], "language": rows[at]["language"] or "none"}
        for at in order[:most]
    ]
