"""Which tokens an expert answers to, and how the tokens of a prompt are routed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...errors import StoreError
from ...read.batches import uses_of
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ..registry import view
from .contexts import check_expert

ORDERS = ("count", "share", "weight")
_LARGEST_TALLY = 1 << 24


class TokenTally:
    """Sums by token id, for ids up to some millions."""

    def __init__(self) -> None:
        self.sums = np.zeros((3, 0))

    def add(self, row: int, token_N: np.ndarray, amount_N: np.ndarray | None = None) -> None:
        """Add 1, or an amount, for each token; row 0 occurrences, 1 uses, 2 gate weight. Id -1 is left
        out."""
        if len(token_N) == 0:
            return
        if int(token_N.max()) >= _LARGEST_TALLY:
            raise StoreError(f"a token id is {int(token_N.max())}, beyond {_LARGEST_TALLY:,}")
        tally = np.bincount(token_N + 1, weights=amount_N)
        if len(tally) > self.sums.shape[1]:
            self.sums = np.pad(self.sums, ((0, 0), (0, len(tally) - self.sums.shape[1])))
        self.sums[row, : len(tally)] += tally


@view("expert-tokens", needs=("events", "token_ids"))
def expert_tokens(
    trace: TraceRows,
    *,
    layer: int,
    expert: int,
    stream: str = "decoder",
    tokens: TokenFilter = ALL_TOKENS,
    order: str = "count",
    least: int = 1,
    limit: int = 50,
) -> pa.Table:
    """The tokens of the vocabulary that use an expert most.

    Args:
        order: by `count` (uses), `share` (uses / occurrences) or `weight` (sum of gate weights).
        least: leave out tokens that occur less often.
        limit: how many tokens; 0 for all.
    Returns:
        token_id, token, count, occurrences, share = count / occurrences, mean_weight (when used; null where
        the trace has no weights).
    """
    check_expert(trace, layer, stream, expert)
    if order not in ORDERS:
        raise StoreError(f"order is {order!r}; it is one of {', '.join(ORDERS)}")
    weighted = "weights" in trace.manifest.capture
    if order == "weight" and not weighted:
        raise StoreError("this trace has no gate weights to order by")
    tally = TokenTally()
    for batch in trace.iter_router(
        layer,
        stream,
        columns=("experts", "weights") if weighted else ("experts",),
        token_columns=("token_id",),
        tokens=tokens,
    ):
        token_N = batch.tokens["token_id"]
        rows, slots = uses_of(batch.experts, batch.offsets, expert)
        tally.add(0, token_N)
        tally.add(1, token_N[rows])
        if weighted:
            tally.add(2, token_N[rows], np.nan_to_num(batch.weights.reshape(-1)[slots]))
    return _token_table(trace, tally, order, least, limit, weighted)


def _token_table(
    trace: TraceRows, tally: TokenTally, order: str, least: int, limit: int, weighted: bool
) -> pa.Table:
    occurrences, uses, weight = (row[1:] for row in tally.sums)
    found = np.flatnonzero((uses > 0) & (occurrences >= least))
    share = uses[found] / occurrences[found]
    rank = {"count": uses[found], "share": share, "weight": weight[found]}[order]
    best = np.lexsort((found, -uses[found], -rank))[: limit or None]
    found, share = found[best], share[best]
    count = uses[found].astype(np.int64)
    return pa.table(
        {
            "token_id": pa.array(found.astype(np.int32)),
            "token": token_texts(trace, found),
            "count": count,
            "occurrences": occurrences[found].astype(np.int64),
            "share": share,
            "mean_weight": pa.array(weight[found] / count)
            if weighted
            else pa.nulls(len(found), pa.float64()),
        }
    )


def token_texts(trace: TraceRows, token_ids: np.ndarray) -> pa.Array:
    """Text of each token id as the trace has it, null where it has none; reads few parts, as a rule."""
    text: dict[int, str | None] = {}
    wanted = np.unique(np.asarray(token_ids, np.int64))
    for piece in trace.iter_token_parts(["token_id", "token"]):
        if len(wanted) == 0:
            break
        ids, first = np.unique(np.asarray(piece["token_id"].fill_null(-1)), return_index=True)
        at = np.minimum(np.searchsorted(ids, wanted), max(0, len(ids) - 1))
        here = ids[at] == wanted if len(ids) else np.zeros(len(wanted), bool)
        rows = pa.array(first[at[here]])
        text |= dict(zip(wanted[here].tolist(), piece["token"].take(rows).to_pylist(), strict=True))
        wanted = wanted[~here]
    return pa.array([text.get(int(token)) for token in token_ids], pa.string())


@view("prompt-tokens", needs=("events",))
def prompt_tokens(
    trace: TraceRows, *, prompt_id: str, layer: int | Sequence[int] | None = None, stream: str | None = None
) -> pa.Table:
    """One prompt, token by token: every token's experts at every layer (or some).

    Returns:
        position, token_id, token, phase, special, completion, layer, stream, experts, and what else was
        captured (weights, entropy, ...), by layer and position.
    """
    tokens = trace.tokens(prompt_id)
    events = trace.events(prompt_id, layer, stream)
    at = np.searchsorted(np.asarray(tokens["position"]), np.asarray(events["position"]))
    joined = tokens.drop_columns(["prompt_id"]).take(pa.array(at))
    for name in events.column_names[2:]:
        joined = joined.append_column(name, events[name])
    return joined
