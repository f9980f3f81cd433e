"""How much of a layer's routing the token id alone explains, beside its position, the layer before and a tag."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ....kernels.statistics.jackknife import deal
from ....kernels.structure import explained, explained_interval, tag_information
from ...notes import with_notes
from ...read.batches import EventBatch
from ...read.passes import map_router
from ...read.sequences import firsts_of
from ...read.token_filter import ALL_TOKENS, TokenFilter
from ...read.trace_rows import TraceRows
from ...schema import RouterSpec
from ...write.rollups import token_key
from ..options import DECODER, Routers
from ..registry import view

FOLDS = 10
_PERMUTATIONS = 100

_SCHEMA = pa.schema(
    [
        *[("layer", pa.int32()), ("stream", pa.string()), ("label", pa.string()), ("share", pa.float64())],
        *[("low", pa.float64()), ("high", pa.float64()), ("information", pa.float64())],
        *[("expected", pa.float64()), ("entropy", pa.float64()), ("values", pa.int64())],
        *[("tokens", pa.int64()), ("prompts", pa.int64())],
    ]
)


@view("explained", needs=("events", "token_ids"))
def explained_view(
    trace: TraceRows,
    *,
    by: str | None = None,
    routers: Routers = DECODER,
    intervals: bool = True,
    tokens: TokenFilter = ALL_TOKENS,
) -> pa.Table:
    """How much of a token's first expert is explained by its id, the next id, its position, the layer before, a tag.

    Args:
        by: also a tag of the prompts, such as language.
        intervals: without them low and high are null, in less time.
    Returns:
        layer, stream, label (token, next token, position, layer before, or the tag), share = (information − expected) /
        (entropy − expected): 0 for a label that says nothing, 1 for one that decides; low, high (95 %, jackknife over
        10 groups of prompts; null for the tag), information (plug-in mutual information with the first expert, nats),
        expected (its mean where tokens, or for a tag prompts, exchange their labels), entropy (of the first expert),
        values (different labels), tokens, prompts. A label without any value is left out.
    """
    rows, before = [], None
    wanted = {spec.layer for spec in routers.specs(trace)}
    for spec in trace.select_routers(None, routers.stream):
        here = _Layer(trace, spec, tokens, before)
        if spec.layer in wanted:
            rows += _rows(here, intervals, by)
        before = here
    weighted = "weights" in trace.manifest.capture
    first = "the expert with the largest gate weight" if weighted else (
        "the first expert in the order of the recording, which has no gate weights"
    )  # fmt: skip
    ours = (
        f"Of {first}. Positions are counted in doublings (0, 1, 2–3, 4–7, ...). A token "
        "id that few prompts use also carries what those prompts are about."
    )
    left_out = f"Intervals leave out one of at most {FOLDS} groups of prompts at a time."
    notes = [ours, left_out] if intervals else [ours]
    return with_notes(pa.Table.from_pylist(rows, schema=_SCHEMA), [*notes, tokens.note()])


@dataclass(frozen=True)
class _Tokens:
    """First experts of one layer, over all parts; (N,) each."""

    prompt: np.ndarray
    position: np.ndarray
    token: np.ndarray
    first: np.ndarray
    key: np.ndarray
    """(prompt, position) as one rising number in each part."""

    def following(self) -> np.ndarray:
        """(N,) id of the next token of the prompt, -1 where there is none."""
        out = np.full(len(self.token), -1, np.int64)
        if len(out):
            next_to = (self.prompt[1:] == self.prompt[:-1]) & (self.position[1:] == self.position[:-1] + 1)
            out[:-1][next_to] = self.token[1:][next_to]
        return out

    def from_layer_before(self, before: _Tokens) -> np.ndarray:
        """(N,) first expert of the same token there, -1 where it did not pass."""
        if np.array_equal(self.key, before.key):
            return before.first
        out = np.full(len(self.key), -1, np.int64)
        _, here, there = np.intersect1d(self.key, before.key, assume_unique=True, return_indices=True)
        out[here] = before.first[there]
        return out


@dataclass
class _Layer:
    """A layer, whose tokens are read when a number of it is not remembered."""

    trace: TraceRows
    spec: RouterSpec
    wanted: TokenFilter
    before: _Layer | None

    @property
    def tokens(self) -> _Tokens:
        return _Tokens(*self.remembered("first experts", lambda: _read(self.trace, self.spec, self.wanted)))

    def remembered(self, what: str, make: Callable[[], tuple[Any, ...]], *more: Hashable) -> tuple[Any, ...]:
        return self.trace.memo.get((what, *self.spec.key, *more, self.wanted.key), make)

    def labels(self) -> dict[str, Callable[[_Tokens], np.ndarray]]:
        """By name: what gives each token's label."""
        found: dict[str, Callable[[_Tokens], np.ndarray]] = {
            "token": lambda now: now.token,
            "next token": lambda now: now.following(),
            "position": lambda now: np.frexp(now.position.astype(np.float64))[1],
        }
        if (before := self.before) is not None:
            found["layer before"] = lambda now: now.from_layer_before(before.tokens)
        return found


def _read(trace: TraceRows, spec: RouterSpec, tokens: TokenFilter) -> tuple[np.ndarray, ...]:
    def of_part(batch: EventBatch) -> tuple[np.ndarray, ...]:
        key = token_key(batch.prompt_N, batch.position_N)
        first = firsts_of(batch).astype(np.int32)
        return batch.prompt_index, batch.position_N, batch.tokens["token_id"], first, key

    parts = list(
        map_router(trace, of_part, spec.layer, spec.stream, token_columns=("token_id",), tokens=tokens)
    )
    if not parts:
        return tuple(np.zeros(0, np.int64) for _ in range(5))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _rows(layer: _Layer, intervals: bool, by: str | None) -> Iterator[dict[str, Any]]:
    for name, label in layer.labels().items():
        [row] = layer.remembered(
            f"explained by {name}", lambda label=label: (_of_label(layer, label, intervals),), intervals
        )
        if row is not None:
            yield {"layer": layer.spec.layer, "stream": layer.spec.stream, "label": name, **row}
    if by is None:
        return
    [row] = layer.remembered("explained by tag", lambda: (_of_tag(layer, by),), by)
    if row is not None:
        yield {"layer": layer.spec.layer, "stream": layer.spec.stream, "label": by, **row}


def _of_label(
    layer: _Layer, label: Callable[[_Tokens], np.ndarray], intervals: bool
) -> dict[str, Any] | None:
    now = layer.tokens
    label_N = label(now)
    counted = (label_N >= 0) & (now.first >= 0)
    if not counted.any():
        return None
    values = {
        "values": len(_different(label_N[counted])),
        "tokens": int(counted.sum()),
        "prompts": len(_different(now.prompt[counted])),
    }
    if not intervals:
        return explained(label_N, now.first)._asdict() | values
    groups = deal(layer.trace.num_prompts, FOLDS)
    found, interval = explained_interval(label_N, now.first, groups[now.prompt])
    known = np.isfinite(interval.low)
    ends = {"low": float(interval.low), "high": float(interval.high)} if known else {}
    return found._asdict() | ends | values


def _of_tag(layer: _Layer, by: str) -> dict[str, Any] | None:
    groups, now, num_experts = layer.trace.groups(by), layer.tokens, layer.spec.num_experts
    tag_P = np.where([groups.names[g] is None for g in groups.group_P], -1, groups.group_P)
    counted = now.first >= 0
    prompts = _different(now.prompt[counted])
    row_P = np.zeros(layer.trace.num_prompts, np.int64)
    row_P[prompts] = np.arange(len(prompts))
    values = len(np.unique(tag_P[prompts][tag_P[prompts] >= 0]))
    if values < 2:
        return None
    at = row_P[now.prompt[counted]] * num_experts + now.first[counted]
    count_PE = np.bincount(at, minlength=len(prompts) * num_experts).reshape(len(prompts), -1)
    found = tag_information(count_PE, tag_P[prompts], _PERMUTATIONS)
    left = float(found.entropy - found.chance)
    return {
        "share": float(found.information - found.chance) / left if left > 0 else 0.0,
        "information": float(found.information),
        "expected": float(found.chance),
        "entropy": float(found.entropy),
        "values": values,
        "tokens": int(counted.sum()),
        "prompts": int((tag_P[prompts] >= 0).sum()),
    }


def _different(values_N: np.ndarray) -> np.ndarray:
    """The different values of whole numbers from 0 on, rising: np.unique, by counting where none is huge."""
    if int(values_N.max(initial=0)) > 1 << 24:
        return np.unique(values_N)
    return np.flatnonzero(np.bincount(values_N))
