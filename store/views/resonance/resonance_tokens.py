"""The tokens on which the experts of a contrast differ most: a score taken apart by vocabulary.

A score is a sum over tokens, so it splits without remainder: the contribution of a token of the vocabulary to
an expert's score is what its occurrences add to it. With measure `rate` that is, for an unpaired contrast,
mean over target prompts of (uses of the expert by that token / tokens of the prompt) - the same of the rest.
Contributions of one expert over all its tokens sum to its score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...errors import StoreError
from ...notes import with_notes
from ...read.passes import EventBatch
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..experts.tokens import TokenTally, token_texts, uses_of
from ..registry import view
from .contrast import WHOLE_PROMPT, ContrastFilter, amounts_of, last_of, pairing
from .sides import BY_GROUP, Group, Grouping, Sides

Cells = str | Sequence[tuple[int, int]]
"""`5:25,7:27`: layer and expert; or pairs of them."""


@view("resonance-tokens", needs=("events",))
def resonance_tokens(
    trace: TraceRows,
    *,
    cells: Cells,
    target: Group,
    grouping: Grouping = BY_GROUP,
    stream: str = "decoder",
    measure: str = "rate",
    paired: bool | None = None,
    tokens: ContrastFilter = WHOLE_PROMPT,
    limit: int = 5,
) -> pa.Table:
    """The tokens that contribute most to the scores of some experts.

    Args:
        cells: layer:expert, comma between, e.g. 5:25,7:27.
        target, measure, paired: as in `resonance`.
        limit: tokens of each expert, by |contribution|; 0 for all.
    Returns:
        layer, stream, expert, token_id, token, contribution (its part of the score), target_uses, rest_uses
        (occurrences that chose the expert, in the prompts that take part).
    """
    sides = grouping.sides(trace, target)
    experts_of: dict[int, list[int]] = {}
    for layer, expert in _cells(cells):
        experts_of.setdefault(layer, []).append(expert)
    tables = []
    for layer, experts in sorted(experts_of.items()):
        spec = trace.router(layer, stream)
        tables += _of_router(trace, spec, sorted(set(experts)), sides, measure, paired, tokens, limit)
    table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    kind = f"Contributions to the score of measure {measure}; an expert's sum over all tokens is its score."
    return with_notes(table, [f"{sides.target} against {sides.rest}.", kind, tokens.note()])


def _cells(cells: Cells) -> list[tuple[int, int]]:
    if not isinstance(cells, str):
        return [(int(layer), int(expert)) for layer, expert in cells]
    try:
        pairs = [part.split(":") for part in cells.split(",")]
        return [(int(layer), int(expert)) for layer, expert in pairs]
    except ValueError:
        raise StoreError(f"cells are {cells!r}; write layer:expert, as in 5:25,7:27") from None


def _of_router(
    trace: TraceRows,
    spec: RouterSpec,
    experts: list[int],
    sides: Sides,
    measure: str,
    paired: bool | None,
    tokens: ContrastFilter,
    limit: int,
) -> list[pa.Table]:
    weight_P = _token_weights(trace, spec, sides, measure, paired, tokens)
    tallies = {expert: TokenTally() for expert in experts}
    weighted = measure.startswith("weight")
    for batch in trace.iter_router(
        spec.layer, spec.stream, columns=("experts", "weights") if weighted else ("experts",),
        token_columns=("token_id",), special=tokens.special,
        phase="prefill" if tokens.last is not None else tokens.phase, completion=tokens.completion,
    ):  # fmt: skip
        part_N = np.where(last_of(batch, tokens.last), weight_P[batch.prompt_index], 0.0)
        for expert, tally in tallies.items():
            _count(tally, batch, expert, part_N, weighted)
    return [_rows(trace, spec, expert, tally, limit) for expert, tally in tallies.items()]


def _token_weights(
    trace: TraceRows,
    spec: RouterSpec,
    sides: Sides,
    measure: str,
    paired: bool | None,
    tokens: ContrastFilter,
) -> np.ndarray:
    """(P,) what one use by a token of the prompt adds to a score; 0 for prompts that take no part."""
    wanted_P = sides.mask("target") | sides.mask("rest")
    _, tokens_P = amounts_of(trace, spec, len(wanted_P), "rate", tokens)
    rows = np.flatnonzero(wanted_P & (tokens_P > 0))
    weight_P = np.zeros(len(wanted_P))
    weight_P[rows] = pairing(trace, sides, rows, paired).weights()
    if measure in ("rate", "weight_rate"):
        weight_P[rows] /= tokens_P[rows]
    return weight_P


def _count(tally: TokenTally, batch: EventBatch, expert: int, part_N: np.ndarray, weighted: bool) -> None:
    """Rows of the tally: uses by the target, uses by the rest, contribution."""
    rows, slots = uses_of(batch.experts, batch.offsets, expert)
    if not len(rows):
        return
    part = part_N[rows]
    token = batch.tokens["token_id"][rows]
    tally.add(0, token[part > 0])
    tally.add(1, token[part < 0])
    if weighted:
        part = part * np.nan_to_num(batch.weights.reshape(-1)[slots].astype(np.float64))
    tally.add(2, token, part)


def _rows(trace: TraceRows, spec: RouterSpec, expert: int, tally: TokenTally, limit: int) -> pa.Table:
    target, rest, contribution = (row[1:] for row in tally.sums)
    found = np.flatnonzero((target > 0) | (rest > 0))
    best = found[np.argsort(-np.abs(contribution[found]), kind="stable")][: limit or None]
    many = len(best)
    return pa.table(
        {
            "layer": np.full(many, spec.layer, np.int32),
            "stream": [spec.stream] * many,
            "expert": np.full(many, expert, np.int32),
            "token_id": best.astype(np.int32),
            "token": token_texts(trace, best),
            "contribution": contribution[best],
            "target_uses": target[best].astype(np.int64),
            "rest_uses": rest[best].astype(np.int64),
        },
        schema=_SCHEMA,
    )


_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("stream", pa.string()),
        ("expert", pa.int32()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("contribution", pa.float64()),
        ("target_uses", pa.int64()),
        ("rest_uses", pa.int64()),
    ]
)
