"""All experts of all layers as points: near one another where they respond to the same prompts or tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.structure import principal_axes
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ..experts.tokens import token_texts
from ..registry import view
from .parts import summed
from .tags import groups_of, shares_of

TOKEN = "token"
FREQUENT = 200
PRIOR = 50.0
"""Tokens with the layer's mean rate that every rate is mixed with: a rate of few tokens says little."""
FEWEST = 3
"""Values: two place all experts on a line."""

_SCHEMA = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("expert", pa.int32())],
        *[("x", pa.float64()), ("y", pa.float64()), ("tokens", pa.int64()), ("count", pa.int64())],
        *[("share", pa.float64()), ("load", pa.float64())],
        *[("most", pa.string()), ("most_share", pa.float64()), ("lift", pa.float64())],
    ]
)


@view("expert-map")
def expert_map(
    trace: TraceRows, *, by: str = "language", stream: str = "decoder", tokens: TokenFilter = ALL_TOKENS
) -> pa.Table:
    """Every expert of every layer as a point, placed by the similarity of what it responds to.

    Args:
        by: a column of the prompts (language, group, ...) or a tag, or token: the 200 most frequent token ids.
    Returns:
        layer, stream, expert, x, y (the two principal axes of the logarithms of its rates over the values, each against
        the expert's own mean), tokens (of the layer), count (that chose it), share, load = share / mean share of the
        layer, most (the value in which it is used most against its share), most_share, lift = most_share / share.
        Experts that no token chose are left out. See docs/methods/structure.md.
    """
    if by == TOKEN and TOKEN not in trace.tags():
        names, found = _by_token(trace, stream, tokens)
    else:
        names, found = _by_tag(trace, by, stream, tokens)
    if len(names) < FEWEST:
        return with_notes(_SCHEMA.empty_table(), [_too_few(by, len(names)), tokens.note()])
    places, columns = [], []
    for spec, tokens_G, share_GE, total, count_E in found:
        used = np.flatnonzero(count_E > 0)
        mean_E = count_E[used] / total
        # (G values, used experts): rare values are drawn to the layer's mean, as if PRIOR further tokens had it.
        mixed = (share_GE[:, used] * tokens_G[:, None] + PRIOR * mean_E) / (tokens_G[:, None] + PRIOR)
        lift_GE = mixed / mean_E
        most = lift_GE.argmax(0)
        # A point an expert, (used, G): less its own mean, so that its load does not place it, only what it responds to.
        logs = np.log(lift_GE)
        places.append((logs - logs.mean(0)).T)
        columns.append(
            {
                "layer": [spec.layer] * len(used),
                "stream": [spec.stream] * len(used),
                "expert": used,
                "tokens": [total] * len(used),
                "count": count_E[used],
                "share": mean_E,
                "load": mean_E / (count_E.sum() / total / spec.num_experts),
                "most": [names[g] for g in most],
                "most_share": share_GE[most, used],
                "lift": share_GE[most, used] / mean_E,
            }
        )
    if not columns:
        return with_notes(_SCHEMA.empty_table(), [tokens.note()])
    axes = principal_axes(np.concatenate(places))
    table = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    table |= {"x": axes.places[:, 0], "y": axes.places[:, 1]}
    shown = pa.table(
        {field.name: pa.array(table[field.name], field.type) for field in _SCHEMA}, schema=_SCHEMA
    )
    what = f"the {len(names)} most frequent tokens" if by == TOKEN else f"{len(names)} values of {by}"
    first, second = axes.explained
    ours = (
        f"Placed by PCA of log rates over {what}; it has no random start, so the places are the same each time. The "
        f"two axes carry {first:.0%} and {second:.0%} of the differences. Rates are mixed with {PRIOR:.0f} tokens of "
        "the expert's mean rate."
    )
    return with_notes(shown, [ours, tokens.note()])


def _too_few(by: str, values: int) -> str:
    if by == TOKEN and not values:
        return "There is no map by token: the tokens have no ids."
    what = "different token ids" if by == TOKEN else f"values of {by}"
    return f"Only some {what} are selected ({values}): a map needs {FEWEST} or more."


_Found = tuple[RouterSpec, np.ndarray, np.ndarray, int, np.ndarray]


def _by_tag(trace: TraceRows, by: str, stream: str, tokens: TokenFilter) -> tuple[list[str], list[_Found]]:
    source = trace.sums_by(by, tokens.where)
    names, group_P = groups_of(source, by)
    per_layer = [
        (spec, *shares_of(source, spec.layer, stream, group_P, len(names), tokens)[:2])
        for spec in trace.select_routers(None, stream)
    ]
    there_G = np.any([tokens_G > 0 for _, tokens_G, _ in per_layer], axis=0)
    found: list[_Found] = []
    for spec, tokens_G, share_GE in per_layer:
        count_E = np.rint(share_GE.T @ tokens_G).astype(np.int64)
        if total := int(tokens_G.sum()):
            found.append((spec, tokens_G[there_G], share_GE[there_G], total, count_E))
    return [name for name, there in zip(names, there_G, strict=True) if there], found


def _by_token(trace: TraceRows, stream: str, tokens: TokenFilter) -> tuple[list[str], list[_Found]]:
    ids, found = np.zeros(0, np.int64), []
    for spec in trace.select_routers(None, stream):
        if not len(ids):
            ids = _frequent(trace, spec, tokens)
        occurrences_G, uses_GE, total, count_E = _uses(trace, spec, tokens, ids)
        if total:
            share_GE = uses_GE / np.maximum(occurrences_G, 1)[:, None]
            found.append((spec, occurrences_G, share_GE, total, count_E))
    texts = token_texts(trace, ids).to_pylist()
    return [text or f"id {token}" for text, token in zip(texts, ids.tolist(), strict=True)], found


def _frequent(trace: TraceRows, spec: RouterSpec, tokens: TokenFilter) -> np.ndarray:
    """The most frequent token ids at a router, rising."""
    total = np.zeros(0, np.int64)
    for batch in trace.iter_router(spec.layer, spec.stream, token_columns=("token_id",), tokens=tokens):
        known = batch.tokens["token_id"]
        more = np.bincount(known[known >= 0])
        size = max(len(total), len(more))
        total = np.pad(total, (0, size - len(total))) + np.pad(more, (0, size - len(more)))
    best = np.argsort(-total, kind="stable")[:FREQUENT]
    return np.sort(best[total[best] > 0])


def _uses(trace: TraceRows, spec: RouterSpec, tokens: TokenFilter, ids: np.ndarray) -> tuple[Any, ...]:
    """Occurrences (G,) and uses (G, E) of token ids; all tokens, and uses (E,) by all of them."""

    def of_part(batch: EventBatch) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        token_N, experts = batch.tokens["token_id"], batch.padded()
        at = np.minimum(np.searchsorted(ids, token_N), len(ids) - 1)
        known = ids[at] == token_N
        filled = experts >= 0
        # (token id, expert) as one number, so that one count makes the whole table.
        keys = (at[:, None] * spec.num_experts + experts.astype(np.int64))[filled & known[:, None]]
        uses = np.bincount(keys, minlength=len(ids) * spec.num_experts).reshape(len(ids), -1)
        all_E = np.bincount(experts[filled].astype(np.int64), minlength=spec.num_experts)
        return np.bincount(at[known], minlength=len(ids)), uses, len(token_N), all_E

    if not len(ids):
        return np.zeros(0), np.zeros((0, spec.num_experts)), 0, np.zeros(spec.num_experts, np.int64)
    parts = map_router(trace, of_part, spec.layer, spec.stream, token_columns=("token_id",), tokens=tokens)
    return tuple(summed(parts))
