"""Paired tokens of two traces, and their events at one router side by side."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...kernels.agreement import first_flipped, flipped, gate_distance, set_overlap
from ..errors import UnknownColumn
from ..read.selection import Groups
from ..read.token_filter import ALL_TOKENS, TokenFilter
from ..read.trace_parts import retry_without_damaged_part
from ..schema import RouterKey, RouterSpec
from ..trace import Trace
from .token_rows import TokenRows, key_of

PairBy = Literal["prompt_id", "parallel_id"]
Align = Literal["ids", "realign", "characters"]


@dataclass(frozen=True)
class Parting:
    """Where the token ids of a prompt are no longer the same."""

    prompt: int
    """Row of A's prompts."""
    position: int
    row_a: int
    row_b: int


@dataclass(frozen=True)
class Side:
    """Events of one router in one trace, M rows by rising key."""

    key_M: np.ndarray
    ids_MK: np.ndarray
    weights_MK: np.ndarray | None
    """float32, 0 in empty slots; None where none were captured."""


@dataclass(frozen=True)
class Compared:
    """Paired events of one router: N tokens."""

    spec: RouterSpec
    pair_N: np.ndarray
    """Which pair of `Pairs` each is."""
    prompt_N: np.ndarray
    """Row of A's prompts."""
    ids_a_NK: np.ndarray
    ids_b_NJ: np.ndarray
    flipped_N: np.ndarray
    first_N: np.ndarray
    """Whether the first expert differs."""
    overlap_N: np.ndarray
    distance_N: np.ndarray | None
    """Total variation of gate weights, NaN where a weight is none; None where a side has no weights."""
    k_a: float
    """Mean experts of a token in A."""
    k_b: float


@dataclass(kw_only=True)
class Pairs:
    """Two traces and which of their tokens are the same; made by `pairing.pair_traces`."""

    a: Trace
    b: Trace
    tokens_a: TokenRows
    tokens_b: TokenRows
    row_a: np.ndarray
    """(N,) rows of `tokens_a`, rising."""
    row_b: np.ndarray
    """(N,) the same token in `tokens_b`."""
    prompts: list[tuple[int, int]]
    """Paired rows of `prompts()` of A and of B."""
    routers: list[RouterKey]
    """Those that both have, in A's order."""
    missing: list[str]
    """Sentences on layers that only one side has."""
    unpaired: dict[str, int]
    """Reason → how many tokens or prompts were left out for it."""
    partings: list[Parting]
    """Prompts whose token ids part, with the position."""
    pair_by: PairBy = "prompt_id"
    prompt_columns: list[str] = field(default_factory=lambda: ["prompt_id"])
    """Columns of `prompts()` that two paired prompts have in common."""
    align: Align = "ids"
    _kept: dict[RouterKey, Compared] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.row_a)

    @property
    def same_trace(self) -> bool:
        """Whether both are one trace: at one address, or of one creation and the same parts."""
        parts = [[entry.to_json() for entry in side.parts] for side in (self.a, self.b)]
        return self.a.url == self.b.url or (
            parts[0] == parts[1] and self.a.manifest.created == self.b.manifest.created
        )

    def layers(self, layers: list[int] | None, stream: str) -> list[int]:
        """Layers of a stream that both sides have, of those that are asked for.

        Raises:
            UnknownColumn: one of them has no router on both sides.
        """
        known = [key.layer for key in self.routers if key.stream == stream]
        if layers is None:
            if not known:
                streams = ", ".join(sorted({key.stream for key in self.routers}))
                raise UnknownColumn(
                    f"the two traces share no router of the stream {stream!r}; they share: {streams}"
                )
            return known
        if missing := [layer for layer in layers if layer not in known]:
            raise UnknownColumn(
                f"no router of both traces at layer {missing[0]}, stream {stream!r}; there is {known}"
            )
        return [layer for layer in known if layer in layers]

    def wanted(self, tokens: TokenFilter = ALL_TOKENS) -> np.ndarray:
        """(N,) bool: pairs whose token in A passes a filter."""
        tokens.check()
        good = tokens.of_tokens(self.tokens_a.table)[self.row_a]
        if tokens.where:
            good &= self.a.prompt_mask(tokens.where)[self.tokens_a.prompt_N[self.row_a]]
        return good

    def groups(self, by: str | None) -> Groups:
        """Pairs by phase, by a column of A's prompts or by a tag; `group_P` has a number for each pair."""
        if by == "phase":
            names, group_N = np.unique(
                np.asarray(self.tokens_a.table["phase"])[self.row_a], return_inverse=True
            )
            return Groups([str(name) for name in names], group_N)
        of_prompts = self.a.groups(by)
        return Groups(of_prompts.names, of_prompts.group_P[self.tokens_a.prompt_N[self.row_a]])

    def compared(self, layer: int, stream: str = "decoder") -> Compared:
        """The paired events of one router, measured; kept for the next view."""
        key = RouterKey(stream, layer)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._compare(layer, stream)
            return self._kept[key]

    def _compare(self, layer: int, stream: str) -> Compared:
        spec = self.a.router(layer, stream)
        side_a, side_b = (read_side(trace, layer, stream) for trace in (self.a, self.b))
        at_a, there_a = _places(side_a.key_M, self.tokens_a.key_N[self.row_a])
        at_b, there_b = _places(side_b.key_M, self.tokens_b.key_N[self.row_b])
        pair_N = np.flatnonzero(there_a & there_b)
        at_a, at_b = at_a[pair_N], at_b[pair_N]
        ids_a, ids_b = side_a.ids_MK[at_a], side_b.ids_MK[at_b]
        distance = None
        if side_a.weights_MK is not None and side_b.weights_MK is not None:
            distance = _distance(ids_a, side_a.weights_MK[at_a], ids_b, side_b.weights_MK[at_b])
        return Compared(
            spec=spec,
            pair_N=pair_N,
            prompt_N=self.tokens_a.prompt_N[self.row_a[pair_N]],
            ids_a_NK=ids_a,
            ids_b_NJ=ids_b,
            flipped_N=flipped(ids_a, ids_b),
            first_N=first_flipped(ids_a, ids_b),
            overlap_N=set_overlap(ids_a, ids_b),
            distance_N=distance,
            k_a=_mean_size(ids_a),
            k_b=_mean_size(ids_b),
        )

    def notes(self) -> list[str]:
        """What a reader must know beside any number of this comparison."""
        notes = ["A and B are the same trace."] if self.same_trace else []
        notes += [f"Left out: {_counted(count, reason)}." for reason, count in self.unpaired.items() if count]
        notes += [f"Left out: {sentence}." for sentence in self.missing]
        for name, side in (("A", self.a), ("B", self.b)):
            notes += [f"Left out of {name}: {problem}" for problem in side.problems]
        if self.pair_by == "parallel_id":
            notes.append(f"Prompts are paired by {' and '.join(self.prompt_columns)}.")
            if self.align == "ids":
                notes.append("Their tokens are paired by position: token ids may differ.")
        if self.align == "characters":
            notes.append("Tokens are paired by the characters that they cover, not by token id.")
        if self.align == "realign" and self.partings:
            notes.append(
                "Token ids were realigned: after the first difference each side has read another text."
            )
        return notes


def _counted(count: int, reason: str) -> str:
    """`3 prompts only in A`, `1 prompt only in A`: a reason begins with the plural of what it counts."""
    noun, rest = reason.split(" ", 1)
    return f"{count:,} {noun.removesuffix('s') if count == 1 else noun} {rest}"


def parts_of(a: Trace, b: Trace) -> tuple[list[str], list[str]]:
    """Names of the parts that are read of each."""
    return [entry.name for entry in a.parts], [entry.name for entry in b.parts]


@dataclass(frozen=True)
class _Reading:
    """What is read of a batch."""

    key: np.ndarray
    ids: np.ndarray
    weights: np.ndarray | None


def read_side(trace: Trace, layer: int, stream: str) -> Side:
    """All events of one router. A part that turns out to be damaged is left out."""
    weighed = "weights" in trace.manifest.capture

    @retry_without_damaged_part
    def read(own: Trace) -> list[_Reading]:
        columns = ("experts", "weights") if weighed else ("experts",)
        return [_reading(batch, weighed) for batch in own.iter_router(layer, stream, columns=columns)]

    pieces = read(trace)
    width = max((piece.ids.shape[1] for piece in pieces), default=0)
    ids = _stacked([piece.ids for piece in pieces], width, -1, np.int32)
    weights = _stacked([piece.weights for piece in pieces], width, 0, np.float32) if weighed else None
    key = np.concatenate([piece.key for piece in pieces]) if pieces else np.zeros(0, np.int64)
    return Side(key, ids, weights)


def _reading(batch: Any, weighed: bool) -> _Reading:
    ids = batch.padded()
    weights = None
    if weighed:
        weights = batch.weights
        if batch.offsets is not None:
            weights = np.zeros(ids.shape, np.float32)
            weights[ids >= 0] = batch.weights
    return _Reading(key_of(batch.prompt_index, batch.position_N), ids, weights)


def _stacked(pieces: list[Any], width: int, empty: float, kind: Any) -> np.ndarray:
    rows = sum(len(piece) for piece in pieces)
    out = np.full((rows, width), empty, kind)
    start = 0
    for piece in pieces:
        out[start : start + len(piece), : piece.shape[1]] = piece
        start += len(piece)
    return out


def _places(key_M: np.ndarray, wanted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted key stands, and whether it is there."""
    if not len(key_M):
        return np.zeros(len(wanted_N), np.int64), np.zeros(len(wanted_N), bool)
    at = np.minimum(np.searchsorted(key_M, wanted_N), len(key_M) - 1)
    return at, key_M[at] == wanted_N


def _distance(ids_a: np.ndarray, g_a: np.ndarray, ids_b: np.ndarray, g_b: np.ndarray) -> np.ndarray:
    """Gate distance; NaN where a weight is NaN, infinite or negative."""
    good = np.ones(len(ids_a), bool)
    for ids, g in ((ids_a, g_a), (ids_b, g_b)):
        good &= ((ids < 0) | (np.isfinite(g) & (g >= 0))).all(1)
    out = np.full(len(ids_a), np.nan)
    out[good] = gate_distance(ids_a[good], g_a[good], ids_b[good], g_b[good])
    return out


def _mean_size(ids: np.ndarray) -> float:
    return float((ids >= 0).sum(1).mean()) if len(ids) else 0.0
