"""The routing maps of prompts, and the contrast that two groups of them make.

Shape legend: P prompts of the trace, Q prompts that take part, M cells (the experts of all chosen routers,
one router after another).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....kernels.counting import count_experts
from ....kernels.resonance import prompt_maps
from ....kernels.resonance.contrast import exchange_between
from ...errors import BadArgument, StoreError
from ...read.passes import EventBatch
from ...read.token_filter import TokenKind
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from .sides import Sides


@dataclass(frozen=True, kw_only=True)
class ContrastFilter(TokenKind):
    """Which tokens of a prompt count in a contrast."""

    last: int | None = None
    """Only the last so many tokens of the prompt itself, of those that the other fields take."""

    def __post_init__(self) -> None:
        if self.last is not None and self.phase == "decode":
            raise BadArgument("last counts a prompt's own tokens: there are none in phase decode")

    def note(self) -> str:
        kinds = {"prefill": "prompt tokens only", "decode": "generated tokens only"}
        parts = [f"Special and template tokens are {'counted' if self.special else 'left out'}"]
        if self.last is not None:
            parts.append(f"only the last {self.last} prompt tokens of each prompt")
        elif self.phase is not None:
            parts.append(kinds.get(self.phase, self.phase))
        if self.completion is not None:
            parts.append("the completion only" if self.completion else "without the completion")
        return "; ".join(parts) + "."


WHOLE_PROMPT = ContrastFilter()


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The prompts that take part in a contrast."""

    labels_Q: list[str | None]
    pairs_Q: list[str | None] | None
    """parallel_id where prompts are exchanged within it only."""
    texts_Q: list[str | None] | None = None
    """Side and parallel_id where prompts change sides in whole texts, because one side holds translations of one
    text. A text that stands on both sides is two of them."""

    def weights(self) -> np.ndarray:
        """(Q,) coefficients: score = weights @ maps."""
        sides = [np.array([label == side for label in self.labels_Q], bool) for side in ("target", "rest")]
        return exchange_between(sides[0], sides[1], self.pairs_Q, self.texts_Q)[0].observed()


def pairing(trace: TraceRows, sides: Sides, rows: np.ndarray, paired: bool | None) -> Pairing:
    """The labels of the prompts `rows`, paired by parallel_id if asked for, or where all have a partner. Else
    translations of one text on one side stay together.

    Raises:
        StoreError: a group has no prompt among them.
    """
    labels = [sides.labels_P[row] for row in rows]
    for side, words in (("target", sides.target), ("rest", sides.rest)):
        if side not in labels:
            raise StoreError(f"no prompt of {words} has any token of the chosen span")
    parallel = trace.prompts()["parallel_id"].to_pylist()
    pairs = [parallel[row] for row in rows]
    if paired is None:
        paired = _all_paired(labels, pairs)
    if paired:
        return Pairing(labels_Q=labels, pairs_Q=pairs)
    texts = [None if text is None else f"{label} {text}" for text, label in zip(pairs, labels, strict=True)]
    known = [text for text in texts if text is not None]
    return Pairing(labels_Q=labels, pairs_Q=None, texts_Q=texts if len(set(known)) < len(known) else None)


def _all_paired(labels: list[str | None], pairs: list[str | None]) -> bool:
    """Whether every prompt of both groups has a partner in the other."""
    of: dict[str | None, set[str | None]] = {"target": set(), "rest": set()}
    for label, pair in zip(labels, pairs, strict=True):
        of[label].add(pair)
    return None not in of["target"] | of["rest"] and of["target"] == of["rest"]


def maps_of(
    trace: TraceRows,
    routers: Sequence[RouterSpec],
    prompts_P: np.ndarray,
    measure: str,
    tokens: ContrastFilter,
) -> tuple[np.ndarray, np.ndarray]:
    """The routing map of each chosen prompt.

    Args:
        prompts_P: (P,) bool, the prompts wanted.
    Returns:
        maps (Q, M) and (Q,) rows in `Trace.prompts()` of the Q wanted prompts that have any such token.
    """
    pieces, tokens_P = [], np.zeros(len(prompts_P), np.int64)
    for spec in routers:
        amounts, passed = amounts_of(trace, spec, len(prompts_P), measure, tokens)
        kind = {"weights": amounts} if measure.startswith("weight") else {"counts": amounts}
        pieces.append(prompt_maps(tokens=passed, measure=measure, **kind))  # pyright: ignore[reportArgumentType]
        tokens_P = np.maximum(tokens_P, passed)
    rows = np.flatnonzero(prompts_P & (tokens_P > 0))
    return np.concatenate(pieces, axis=1)[rows], rows


def amounts_of(
    trace: TraceRows, spec: RouterSpec, prompts: int, measure: str, tokens: ContrastFilter
) -> tuple[np.ndarray, np.ndarray]:
    """(P, E) uses or summed gate weights of each prompt at one router, and (P,) its tokens of the span."""
    amounts, passed = np.zeros((prompts, spec.num_experts)), np.zeros(prompts, np.int64)
    if tokens.last is not None:
        _add_last(trace, spec, amounts, passed, measure, tokens)
        return amounts, passed
    arrays = trace.rollup_arrays(
        spec.layer, spec.stream, special=tokens.special, phase=tokens.phase, completion=tokens.completion
    )
    given = arrays.weight_sum if measure.startswith("weight") else arrays.count
    if given is None:
        raise StoreError("the trace has no gate weights; measure rate or count does without")
    amounts[arrays.prompt_index], passed[arrays.prompt_index] = given, arrays.tokens
    return amounts, passed


def _add_last(
    trace: TraceRows,
    spec: RouterSpec,
    amounts: np.ndarray,
    passed: np.ndarray,
    measure: str,
    tokens: ContrastFilter,
) -> None:
    """Add up the last tokens of each prompt's prefill from the events."""
    weighted = measure.startswith("weight")
    columns = ("experts", "weights") if weighted else ("experts",)
    for batch in trace.iter_router(
        spec.layer, spec.stream, columns=columns, special=tokens.special, phase="prefill",
        completion=tokens.completion,
    ):  # fmt: skip
        if batch.offsets is not None and weighted:
            raise StoreError("weights of the last tokens are not summed where k varies; use measure rate")
        kept = last_of(batch, tokens.last)
        prompts, group = np.unique(batch.prompt_index[kept], return_inverse=True)
        ids = batch.padded()[kept]
        weights = batch.weights[kept].astype(np.float64) if weighted else None
        amounts[prompts] += count_experts(
            ids, spec.num_experts, groups=group, num_groups=len(prompts), weights=weights
        )
        passed[prompts] += np.bincount(group, minlength=len(prompts))


def last_of(batch: EventBatch, last: int | None) -> np.ndarray:
    """(N,) bool: the last so many events of each prompt; all where None. A part holds whole prompts."""
    if last is None or not len(batch.prompt_index):
        return np.ones(len(batch.prompt_index), bool)
    ends = np.flatnonzero(np.r_[batch.prompt_index[1:] != batch.prompt_index[:-1], True])
    until = ends[np.searchsorted(ends, np.arange(len(batch.prompt_index)))]
    return until - np.arange(len(until)) < last
