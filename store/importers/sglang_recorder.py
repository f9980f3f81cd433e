"""SGLang's expert distribution recorder in `per_token` mode: forward passes → sequences.

A record is one pass over a batch: ids padded to 8 columns with -1, physical ids, no request ids. Where each token
stands is what the record's own `positions` say: a chunk of a prompt, or a prompt with a cached prefix, begins
later than 0. What a token is follows from the pass's mode; drafts of speculative decoding are neither.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .arrays import expert_array, refuse, whole_numbers
from .engines import Request
from .torch_files import whole_array

EXTEND, DECODE, MIXED, VERIFY = 1, 2, 3, 5
MODES = {EXTEND: "prefill", DECODE: "decode", MIXED: "mixed", 4: "idle", VERIFY: "draft", 6: "draft-extend"}
"""`ForwardMode` of SGLang. A verify pass runs the tokens that a draft model proposed, kept or not."""


def recorded(data: dict[str, Any], name: str) -> tuple[list[Request], list[str]]:
    """Sequences of a recorder's file, and what to say of them.

    Raises:
        ImportRefused: a record that contradicts itself; the message names it.
    """
    records = data["records"]
    if not isinstance(records, list):
        raise refuse(name, "records", "it is not a list")
    table = data.get("last_physical_to_logical_map")
    logical_LE = None if table is None else whole_array(table, name, "last_physical_to_logical_map", 2)
    chains = _Decoding()
    requests: list[Request] = []
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ImportRefused(f"{name}, record {number}: it is not a dictionary")
        one = _Pass.of(f"{name}, record {number}", number, record, logical_LE)
        if one.mode == DECODE:
            chains.take(one)
        elif one.mode == MIXED:
            ends = one.ends()
            chains.take(one.rows(ends[one.first_decoded(ends)], len(one.ids)))
            requests += one.rows(0, ends[one.first_decoded(ends)]).sequences("prefill")
        else:
            requests += one.sequences("prefill" if one.mode == EXTEND else "unknown")
    return requests + chains.requests(), _notes(records)


def _notes(records: list[dict[str, Any]]) -> list[str]:
    modes = {mode for record in records if isinstance(mode := record.get("forward_mode"), int)}
    notes = []
    if VERIFY in modes:
        notes.append(
            "speculative passes: their tokens are drafts, accepted or not; phase unknown, tag mode=draft"
        )
    if any(record.get("positions") is None for record in records):
        notes.append("records without positions: their tokens are counted from 0")
    return notes


@dataclass
class _Pass:
    """One forward pass, or some of its rows."""

    where: str
    number: int
    mode: int | None
    ids: list[int]
    positions: list[int]
    lengths: list[int] | None
    """Tokens of each request in it, where the record says."""
    ids_NLK: np.ndarray

    @classmethod
    def of(cls, where: str, number: int, record: dict[str, Any], logical_LE: np.ndarray | None) -> _Pass:
        ids = whole_numbers(record.get("input_ids"), where, "input_ids")
        mode, lengths = record.get("forward_mode"), record.get("extend_seq_lens")
        if lengths is not None:
            lengths = whole_numbers(lengths, where, "extend_seq_lens")
            if sum(lengths) != len(ids):
                raise refuse(
                    where, "extend_seq_lens", f"they sum to {sum(lengths)}, input_ids has {len(ids)}"
                )
        given = record.get("positions")
        if given is None:
            positions = [at for length in lengths or [len(ids)] for at in range(length)]
        else:
            positions = whole_numbers(given, where, "positions")
        if len(positions) != len(ids):
            raise refuse(where, "positions", f"{len(positions)} positions, but input_ids has {len(ids)}")
        mode = mode if isinstance(mode, int) and not isinstance(mode, bool) else None
        return cls(
            where, number, mode, ids, positions, lengths, _pass_ids(record, where, logical_LE, len(ids))
        )

    def rows(self, first: int, last: int) -> _Pass:
        """Some of its rows; requests that begin there keep their lengths."""
        lengths, at = [], 0
        for length in self.lengths or []:
            if first <= at < last:
                lengths.append(length)
            at += length
        rows = slice(first, last)
        return _Pass(
            self.where, self.number, self.mode, self.ids[rows], self.positions[rows],
            lengths if self.lengths is not None else None, self.ids_NLK[rows],
        )  # fmt: skip

    def ends(self) -> list[int]:
        """Where requests begin, and the end: by the lengths, and wherever positions don't go on."""
        cuts = {0, len(self.ids)}
        at = 0
        for length in self.lengths or []:
            cuts.add(at)
            at += length
        cuts |= {row for row in range(1, len(self.ids)) if self.positions[row] != self.positions[row - 1] + 1}
        return sorted(cuts)

    def first_decoded(self, ends: list[int]) -> int:
        """Number of the request from which on a mixed pass decodes: running requests, one token each, stand after
        the prompts."""
        first = len(ends) - 1
        while first > 1 and ends[first] - ends[first - 1] == 1 and self.positions[ends[first - 1]] > 0:
            first -= 1
        return first

    def sequences(self, phase: str) -> list[Request]:
        ends = self.ends()
        mode = MODES.get(self.mode or 0, f"forward-mode-{self.mode}")
        return [
            Request(
                where=self.where,
                prompt_id=f"pass-{self.number:05d}-{at}",
                prompt_ids=self.ids[first:last],
                generated_ids=[],
                ids_NLK=self.ids_NLK[first:last],
                texts={"mode": phase if phase != "unknown" else mode},
                positions=self.positions[first:last],
                phase=phase,
            )
            for at, (first, last) in enumerate(itertools.pairwise(ends))
            if last > first
        ]


def _pass_ids(record: dict[str, Any], where: str, logical_LE: np.ndarray | None, tokens: int) -> np.ndarray:
    ids_LNK = expert_array(
        whole_array(record.get("topk_ids_of_layer"), where, "topk_ids_of_layer", 3), where, "ids"
    )
    if ids_LNK.size and ids_LNK.shape[1] != tokens:
        raise refuse(where, "topk_ids_of_layer", f"{ids_LNK.shape[1]} tokens, but input_ids has {tokens}")
    if logical_LE is not None and ids_LNK.size:
        if len(logical_LE) != len(ids_LNK) or int(ids_LNK.max()) >= logical_LE.shape[1]:
            raise refuse(where, "last_physical_to_logical_map", "it does not fit the ids")
        logical = np.take_along_axis(logical_LE[:, None, :], np.maximum(ids_LNK, 0).astype(np.int64), axis=2)
        nobody = np.argwhere((ids_LNK >= 0) & (logical < 0))
        if len(nobody):
            layer, token, slot = nobody[0].tolist()
            place = int(ids_LNK[layer, token, slot])
            said = f"layer {layer}: token {token} went to place {place}, which holds no expert there"
            raise refuse(where, "last_physical_to_logical_map", said)
        ids_LNK = np.where(ids_LNK < 0, -1, logical)
    return ids_LNK.transpose(1, 0, 2)


@dataclass
class _Chain:
    """The decoded tokens of one running request."""

    where: str
    name: str
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)


class _Decoding:
    """Decoded tokens of running requests. Files have no request ids, so tokens are joined only while the same
    slot of the batch goes on at the next position; they can't be joined to their prompts."""

    def __init__(self) -> None:
        self._running: list[_Chain] = []
        self._done: list[_Chain] = []

    def take(self, one: _Pass) -> None:
        if [chain.positions[-1] + 1 for chain in self._running] != one.positions:
            self._done += self._running
            self._running = [_Chain(one.where, f"decode-{one.number:05d}-{at}") for at in range(len(one.ids))]
        for at, chain in enumerate(self._running):
            chain.ids.append(one.ids[at])
            chain.positions.append(one.positions[at])
            chain.rows.append(one.ids_NLK[at] if len(one.ids_NLK) else np.zeros((0, 0), np.int64))

    def requests(self) -> list[Request]:
        return [self._request(chain) for chain in self._done + self._running]

    @staticmethod
    def _request(chain: _Chain) -> Request:
        if len({row.shape for row in chain.rows}) > 1:
            raise refuse(chain.where, "topk_ids_of_layer", "its shape changes from pass to pass")
        return Request(
            where=chain.where,
            prompt_id=chain.name,
            prompt_ids=[],
            generated_ids=chain.ids,
            ids_NLK=np.stack(chain.rows),
            texts={"mode": "decode"},
            positions=chain.positions,
            phase="decode",
        )
