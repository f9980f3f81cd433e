"""Prompts for calibrating a quantiser: sets that reach all experts."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ....kernels.importance import balanced_subset, calibration_sigma
from ...amount import amount
from ...errors import DecisionRefused
from ...notes import with_notes
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..layers import layers_of
from ..options import DECODER, Routers
from ..registry import view

NOTE = "A greedy choice among recorded prompts (ours), not the text generation of arXiv 2505.03804."


class Usage(NamedTuple):
    """Choices of experts by prompt."""

    counts_PLE: np.ndarray
    tokens_P: np.ndarray
    """(P,) of the first layer; 0 for prompts that the filter leaves out."""


def usage_by_prompt(trace: TraceRows, layers: str | None, stream: str, tokens: TokenFilter) -> Usage:
    """Choices of each expert of each layer by each prompt; layers with fewer experts are filled with zeros."""
    numbers = layers_of(trace, layers, stream)
    most = max(trace.router(layer, stream).num_experts for layer in numbers)
    counts = np.zeros((trace.num_prompts, len(numbers), most), np.int64)
    tokens_P = np.zeros(trace.num_prompts, np.int64)
    for at, layer in enumerate(numbers):
        rows = trace.rollup_arrays(layer, stream, tokens=tokens)
        counts[rows.prompt_index, at, : rows.num_experts] = rows.count
        if at == 0:
            tokens_P[rows.prompt_index] = rows.tokens
    return Usage(counts, tokens_P)


def picked_prompts(
    trace: TraceRows, prompts: int, *, layers: str | None = None, stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rows of the picked prompts in `Trace.prompts()`, and σ after each.

    Raises:
        DecisionRefused: fewer prompts than asked for.
    """
    used = usage_by_prompt(trace, layers, stream, tokens)
    there = int((used.tokens_P > 0).sum())
    if prompts > there or there == 0:
        raise DecisionRefused(f"{amount(prompts, 'prompt')} asked for, but only {there} with tokens here")
    found = balanced_subset(used.counts_PLE, used.tokens_P, prompts)
    return found.picked, found.sigma


def prompt_lines(trace: TraceRows, rows: np.ndarray) -> str:
    """Prompts as JSONL: id, text, and language, group, parallel_id, completion where they have one.

    Raises:
        DecisionRefused: a trace without texts, as one of counts.
    """
    table = trace.prompts().take(pa.array(rows))
    if table["text"].null_count:
        raise DecisionRefused("the trace does not hold the texts of these prompts, so they can't be written")
    names = ("text", "language", "group", "parallel_id", "completion")
    lines = []
    for row in table.to_pylist():
        line = {"id": row["prompt_id"]} | {name: row[name] for name in names if row[name] is not None}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


@view("calibration-balance")
def calibration_balance(
    trace: TraceRows,
    *,
    sizes: str = "16,32,64,128",
    draws: int = 50,
    routers: Routers = DECODER,
    tokens: TokenFilter = ALL_TOKENS,
    seed: int = 0,
) -> pa.Table:
    """How evenly sets of prompts use experts: picked ones beside random ones of the same size.

    Args:
        sizes: prompts in a set, e.g. 16,64.
        draws: random sets of each size.
    Returns:
        set (picked, random, all), prompts, tokens, sigma (mean over layers of the sample standard deviation of expert
        shares; 0 is even), low, high (of random sets: the central 95 %), unused (experts that the set never reaches).
    """
    used = usage_by_prompt(trace, routers.layers, routers.stream, tokens)
    there = np.flatnonzero(used.tokens_P > 0)
    if len(there) == 0:
        raise DecisionRefused("no prompt of the selection has tokens: there is nothing to pick from")
    wanted = sorted({min(size, len(there)) for size in _sizes(sizes)})
    rng = np.random.default_rng(seed)
    picked, _ = picked_prompts(trace, wanted[-1], layers=routers.layers, stream=routers.stream, tokens=tokens)
    # Experts that a layer does not have are no experts that a set misses.
    real_LE = used.counts_PLE.sum(0) > 0

    def row(name: str, sets: list[np.ndarray]) -> dict[str, object]:
        counts = [used.counts_PLE[one].sum(0) for one in sets]
        sigma = [calibration_sigma(count) for count in counts]
        low, high = np.quantile(sigma, [0.025, 0.975]) if len(sets) > 1 else (None, None)
        return {
            "set": name, "prompts": len(sets[0]), "tokens": float(np.mean([used.tokens_P[one].sum() for one in sets])),
            "sigma": float(np.mean(sigma)), "low": low, "high": high,
            "unused": float(np.mean([((count == 0) & real_LE).sum() for count in counts])),
        }  # fmt: skip

    rows = []
    for size in wanted:
        rows.append(row("picked", [picked[:size]]))
        rows.append(row("random", [rng.choice(there, size, replace=False) for _ in range(draws)]))
    rows.append(row("all", [there]))
    kinds = [("set", pa.string()), ("prompts", pa.int32())]
    kinds += [(name, pa.float64()) for name in ("tokens", "sigma", "low", "high", "unused")]
    return with_notes(pa.Table.from_pylist(rows, schema=pa.schema(kinds)), [NOTE, tokens.note()])


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in str(text).split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise DecisionRefused(f"sizes are {text!r}; write numbers of prompts such as 16,64")
    return sizes
