"""What each token of the vocabulary chooses: its experts, beside what luck makes of few occurrences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ....kernels.statistics.bootstrap import interval_of_enough
from ....kernels.structure import rare_token_baseline, vocabulary_shares
from ...arrow import pc
from ...errors import StoreError, UnknownColumn
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..experts.tokens import token_texts
from ..registry import view

Of = Literal["input", "next"]

_SCHEMA = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("token_id", pa.int32()), ("token", pa.string())],
        *[("expert", pa.int32()), ("share", pa.float64()), ("low", pa.float64()), ("high", pa.float64())],
        *[("layer_share", pa.float64()), ("luck", pa.float64()), ("luck_high", pa.float64())],
        *[("beats_luck", pa.bool_()), ("occurrences", pa.int64()), ("prompts", pa.int64())],
    ]
)


@view("vocabulary", needs=("events", "token_ids"))
def vocabulary(
    trace: TraceRows,
    *,
    layer: int,
    of: Of = "input",
    expert: int | None = None,
    least: int = 8,
    limit: int = 50,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """The token ids that choose an expert most reliably at one layer, and which expert.

    Args:
        of: the token itself (input), or the token that follows it (next).
        expert: only this one's tokens; by default each token's most chosen expert.
        least: fewest occurrences of a token id.
        limit: how many rows, largest share first; 0 for all.
    Returns:
        layer, stream, token_id, token, expert, share (of the token's occurrences), low, high (95 % bootstrap over the
        prompts that hold it; null below 5), layer_share (of all tokens), luck and luck_high (mean and 95 % quantile
        of the largest share of a token with so many occurrences whose routing does not depend on it), beats_luck,
        occurrences, prompts.
    """
    spec = trace.router(layer, stream)
    if expert is not None and not 0 <= expert < spec.num_experts:
        raise StoreError(f"layer {layer} has experts 0 to {spec.num_experts - 1}, not {expert}")
    seen = _seen(trace, spec, of, tokens)
    found = vocabulary_shares(seen.token, seen.experts, spec.num_experts, max(least, 1))
    rows_V = np.arange(len(found.token_ids))
    expert_V = found.shares.argmax(1) if expert is None else np.full(len(rows_V), expert)
    share_V = found.shares[rows_V, expert_V]
    best = np.lexsort((found.token_ids, -found.occurrences, -share_V))
    best = best[share_V[best] > 0][: limit or None]
    chosen = [(int(found.token_ids[v]), int(expert_V[v])) for v in best]
    return _table(trace, spec, seen, chosen, [tokens.note()])


@view("token-experts", needs=("events", "token_ids"))
def token_experts(
    trace: TraceRows,
    *,
    token: str | None = None,
    token_id: int | None = None,
    of: Of = "input",
    layer: int | None = None,
    per_layer: int = 3,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """The experts that a token uses most, layer by layer: which experts fire on it.

    Args:
        token: its text; all ids with this text, whatever spaces are around it, count together. A text with spaces
            around it means that text exactly, where the trace has it.
        token_id: or its id.
        of: the token itself (input), or the token before it, whose experts see this one coming (next).
        per_layer: how many experts of each layer.
    Returns:
        The columns of the `vocabulary` view: by layer, largest share first. token_id is the first where several ids
        have the text.
    """
    ids = ids_of_token(trace, token, token_id)
    pieces, notes = [_SCHEMA.empty_table()], [tokens.note()]
    for spec in trace.select_routers(layer, stream):
        seen = _seen(trace, spec, of, tokens)
        merged = _Seen(np.where(np.isin(seen.token, ids), ids[0], seen.token), seen.experts, seen.prompt)
        rows_N = merged.experts[merged.token == ids[0]]
        uses_E = np.bincount(rows_N[rows_N >= 0].astype(np.int64), minlength=spec.num_experts)
        best = np.argsort(-uses_E, kind="stable")[: max(per_layer, 1)]
        pieces.append(_table(trace, spec, merged, [(int(ids[0]), int(e)) for e in best if uses_E[e]], notes))
    return with_notes(pa.concat_tables(pieces).combine_chunks(), notes)


def ids_of_token(trace: TraceRows, token: str | None, token_id: int | None) -> np.ndarray:
    """Ids of a token of the trace, rising.

    Raises:
        UnknownColumn: neither or both given, or the trace has no such token.
    """
    if (token is None) == (token_id is None):
        raise UnknownColumn("give token, or token_id")
    if token_id is not None:
        return np.array([token_id])
    exact: set[int] = set()
    loose: set[int] = set()
    wanted = str(token)
    for piece in trace.iter_token_parts(["token_id", "token"]):
        text = piece["token"].cast(pa.string())
        for found, mask in (
            (exact, pc.equal(text, wanted)),
            (loose, pc.equal(pc.utf8_trim_whitespace(text), wanted.strip())),
        ):
            ids = pc.unique(piece["token_id"].filter(pc.fill_null(mask, False)).drop_null())
            found.update(ids.to_pylist())
    if not (exact or loose):
        raise UnknownColumn(f"no token of the trace is {wanted!r}")
    spaced = wanted != wanted.strip()
    return np.array(sorted(exact if spaced and exact else loose or exact))


@dataclass(frozen=True)
class _Seen:
    """Tokens of one layer over all parts."""

    token: np.ndarray
    """(N,) its id, or the next one's; -1 for none."""
    experts: np.ndarray
    """(N, K), -1 in empty slots."""
    prompt: np.ndarray
    """(N,) row of its prompt."""


def _seen(trace: TraceRows, spec: RouterSpec, of: str, tokens: TokenFilter) -> _Seen:
    key = ("vocabulary", spec.layer, spec.stream, of, tokens.key)
    return _Seen(*trace.memo.get(key, lambda: _read(trace, spec, of, tokens)))


def _read(
    trace: TraceRows, spec: RouterSpec, of: str, tokens: TokenFilter
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if of not in ("input", "next"):
        raise StoreError(f"of is {of!r}; it is one of input, next")

    def of_part(batch: EventBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        token_N = batch.tokens["token_id"]
        if of == "next" and len(token_N):
            # The next row is the next token only within a prompt and where no filter took a position away.
            follows = np.diff(batch.prompt_N) == 0
            follows &= np.diff(batch.position_N) == 1
            token_N = np.r_[np.where(follows, token_N[1:], -1), -1]
        return token_N, batch.padded(), batch.prompt_index

    parts = list(
        map_router(trace, of_part, spec.layer, spec.stream, token_columns=("token_id",), tokens=tokens)
    )
    if not parts:
        return np.zeros(0, np.int64), np.zeros((0, 1), np.int32), np.zeros(0, np.int64)
    slots = max(part[1].shape[1] for part in parts)
    experts = [
        part[1]
        if part[1].shape[1] == slots
        else np.pad(part[1].astype(np.int32), ((0, 0), (0, slots - part[1].shape[1])), constant_values=-1)
        for part in parts
    ]
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate(experts),
        np.concatenate([part[2] for part in parts]),
    )


def _table(
    trace: TraceRows, spec: RouterSpec, seen: _Seen, chosen: list[tuple[int, int]], notes: list[str]
) -> pa.Table:
    """A row for each chosen (token id, expert)."""
    filled = seen.experts >= 0
    layer_E = np.bincount(seen.experts[filled].astype(np.int64), minlength=spec.num_experts)
    layer_E = layer_E / max(len(seen.token), 1)
    # Sorted once, so that the rows of each token id are one slice.
    order = np.argsort(seen.token, kind="stable")
    ordered = seen.token[order]
    records: list[dict[str, Any]] = []
    for token, expert in chosen:
        rows = order[np.searchsorted(ordered, token) : np.searchsorted(ordered, token, side="right")]
        prompts, prompt_R = np.unique(seen.prompt[rows], return_inverse=True)
        uses_P = np.bincount(prompt_R, (seen.experts[rows] == expert).any(1), len(prompts))
        tokens_P = np.bincount(prompt_R, minlength=len(prompts))
        interval = interval_of_enough(uses_P / tokens_P, weights=tokens_P, resamples=1000)
        luck = rare_token_baseline(min(len(rows), _MOST_DRAWS), layer_E)
        share = float(uses_P.sum() / len(rows))
        ends = {"low": float(interval.low), "high": float(interval.high)}
        records.append(
            {
                "layer": spec.layer,
                "stream": spec.stream,
                "token_id": token,
                "expert": expert,
                "share": share,
                "layer_share": float(layer_E[expert]),
                **{name: value if np.isfinite(value) else None for name, value in ends.items()},
                "luck": float(luck.mean),
                "luck_high": float(luck.high),
                "beats_luck": share > luck.high,
                "occurrences": len(rows),
                "prompts": len(prompts),
            }
        )
    texts = token_texts(trace, np.array([token for token, _ in chosen], np.int64)).to_pylist()
    for record, text in zip(records, texts, strict=True):
        record["token"] = text
    return with_notes(pa.Table.from_pylist(records, schema=_SCHEMA), notes)


_MOST_DRAWS = 4096
"""Beyond so many occurrences luck hardly moves."""
