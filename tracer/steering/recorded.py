"""Routing that was recorded, as the rule `replay` takes it: from a trace, from this process, or one choice for all.

Nothing here imports torch or reads a file before it is asked for: the app checks profiles with these objects too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...store import StoreError, Trace, open_trace
from ...store.compare.pairs import read_side
from ...store.compare.token_rows import UNKNOWN, TokenRows, key_of, token_rows
from ...store.library import trace_named
from ...store.schema import RouterKey, RouterSpec
from ..errors import SteeringError


class Routing(Protocol):
    """What `record_routing` gives."""

    def called(self, layer: int, stream: str) -> bool: ...
    def ids(self, layer: int, stream: str) -> Any: ...
    def weights(self, layer: int, stream: str) -> Any: ...


class Events(NamedTuple):
    """M recorded decisions of one router."""

    ids_MK: np.ndarray
    """-1 is an empty slot."""
    weights_MK: np.ndarray | None


class Recorded(ABC):
    """Recorded decisions. `told` is what a profile as JSON says of them."""

    told: str

    @abstractmethod
    def problem(self, spec: RouterSpec, *, weights: bool) -> str | None:
        """Why it cannot be replayed at a router, or None; `weights`: whether its gate weights are needed."""

    @abstractmethod
    def events(self, spec: RouterSpec) -> Events:
        """All decisions at a router."""


class EveryToken(Recorded):
    """The same experts for every token, at every router that has them."""

    def __init__(self, experts: Sequence[int]) -> None:
        self.told = f"experts {', '.join(map(str, experts))} for every token"
        self._ids = np.array([list(experts)])

    def problem(self, spec: RouterSpec, *, weights: bool) -> str | None:
        beyond = int(self._ids.max()) >= spec.num_experts
        return f"no expert {int(self._ids.max())}: there are {spec.num_experts}" if beyond else None

    def events(self, spec: RouterSpec) -> Events:
        return Events(self._ids, np.full(self._ids.shape, 1 / self._ids.size, np.float32))


class CallsRecorded(Recorded):
    """What `record_routing` kept in this process: replayed row by row, in the order of the calls."""

    told = "routing recorded in the same process (it cannot be saved)"

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._known: dict[RouterKey, Events] = {}

    def problem(self, spec: RouterSpec, *, weights: bool) -> str | None:
        if not self._routing.called(spec.layer, spec.stream):
            return "nothing was recorded there"
        if weights and self._routing.weights(spec.layer, spec.stream) is None:
            return "no gate weights were recorded there"
        return None

    def events(self, spec: RouterSpec) -> Events:
        if spec.key not in self._known:
            ids, weights = (
                get(spec.layer, spec.stream) for get in (self._routing.ids, self._routing.weights)
            )
            assert ids is not None
            values = None if weights is None else weights.detach().float().cpu().numpy()
            self._known[spec.key] = Events(ids.cpu().numpy(), values)
        return self._known[spec.key]


class TraceRecorded(Recorded):
    """A trace: the prompt of a sequence is found by its token ids, so every token is checked against it."""

    def __init__(self, trace: Trace) -> None:
        self.told = trace.url
        self._trace = trace
        self._rows: TokenRows = token_rows(trace)
        self._ids: list[str] = trace.prompts()["prompt_id"].to_pylist()
        starts = np.flatnonzero(np.diff(self._rows.prompt_N, prepend=-1))
        if (self._rows.token_N == UNKNOWN).any():
            raise SteeringError(
                f"{self.told} lacks token ids, so the texts can't be compared before a replay"
            )
        texts = zip(starts.tolist(), [*starts[1:].tolist(), len(self._rows.token_N)], strict=True)
        # Sorted, so that the text that begins with some tokens is found by bisection.
        known = sorted((tuple(self._rows.token_N[start:end].tolist()), start) for start, end in texts)
        self._texts, self._starts = [text for text, _ in known], [start for _, start in known]
        self._known: dict[RouterKey, tuple[Events, np.ndarray]] = {}

    def problem(self, spec: RouterSpec, *, weights: bool) -> str | None:
        found = next((other for other in self._trace.routers if other.key == spec.key), None)
        if found is None:
            return f"{self.told} has no router there; name the layers that it has"
        if found.num_experts != spec.num_experts:
            return f"{self.told} has {found.num_experts} experts there, the model {spec.num_experts}"
        if weights and "weights" not in self._trace.manifest.capture:
            return f"{self.told} holds no gate weights; replay with live ones"
        return None

    def events(self, spec: RouterSpec) -> Events:
        return self._at(spec)[0]

    def places(self, spec: RouterSpec, tokens: Sequence[int], first: int) -> np.ndarray:
        """Events of the tokens from `first` on of a sequence that begins with `tokens`, as rows of `events`.

        Raises:
            SteeringError: no prompt begins so, or a token has no event at this router.
        """
        start = self.start_of(tokens, spec.layer)
        places = self._at(spec)[1][start + first : start + len(tokens)]
        if (places < 0).any():
            position = first + int((places < 0).argmax())
            raise SteeringError(
                f"nothing to replay: prompt {self._prompt(start)!r} has no event at position {position} in layer "
                f"{spec.layer} ({spec.stream})"
            )
        return places

    @property
    def prompt_ids(self) -> list[str]:
        """By row of its prompts."""
        return self._ids

    @property
    def num_tokens(self) -> int:
        return len(self._rows.token_N)

    def rows_of(self, prompt_D: np.ndarray, position_D: np.ndarray) -> np.ndarray:
        """(D,): which of its tokens stands at these positions of these prompts, -1 for none."""
        key_N, key_D = self._rows.key_N, key_of(prompt_D, position_D)
        at = np.searchsorted(key_N, key_D).clip(max=max(len(key_N) - 1, 0))
        return np.where(key_N[at] == key_D, at, -1) if len(key_N) else np.full(len(key_D), -1)

    def holds(self, sequence: Sequence[int]) -> bool:
        """Whether one of its prompts begins with these tokens."""
        at = self._first_from(sequence)
        return at < len(self._texts) and self._texts[at][: len(sequence)] == tuple(sequence)

    def start_of(self, sequence: Sequence[int], layer: int) -> int:
        """The first token of the prompt that a sequence begins with; raises SteeringError where there is none."""
        tokens, at = tuple(sequence), self._first_from(sequence)
        if self.holds(sequence):
            return self._starts[at]
        near = max(range(max(at - 1, 0), min(at + 1, len(self._texts))),
                   key=lambda i: _common(self._texts[i], tokens), default=None)  # fmt: skip
        if near is None:
            raise SteeringError(f"{self.told} holds no prompt")
        same, prompt = _common(self._texts[near], tokens), self._prompt(self._starts[near])
        if same == len(self._texts[near]):
            raise SteeringError(
                f"nothing to replay: prompt {prompt!r} of the trace ends before position {same} (layer {layer}); the "
                'span "prompt" leaves what follows a prompt (choices, generated tokens) to the model'
            )
        raise SteeringError(
            f"the tokens are not those of the trace: the nearest prompt, {prompt!r}, has token id "
            f"{self._texts[near][same]} at position {same}, the model reads {tokens[same]} (layer {layer})"
        )

    def _first_from(self, sequence: Sequence[int]) -> int:
        """Where the first text stands that is not before these tokens; one that begins with them, if there is one."""
        return bisect_left(self._texts, tuple(sequence))

    def _prompt(self, row: int) -> str:
        return self._ids[int(self._rows.prompt_N[row])]

    def _at(self, spec: RouterSpec) -> tuple[Events, np.ndarray]:
        """Events of a router, and for each token of the trace its row among them, -1 for none."""
        if spec.key not in self._known:
            side = read_side(self._trace, spec.layer, spec.stream)
            at = np.searchsorted(side.key_M, self._rows.key_N)
            there = (
                side.key_M[np.minimum(at, len(side.key_M) - 1)] == self._rows.key_N
                if len(side.key_M)
                else at < 0
            )
            self._known[spec.key] = Events(side.ids_MK, side.weights_MK), np.where(there, at, -1)
        return self._known[spec.key]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two sequences share."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def recorded(source: Any) -> Recorded:
    """What can be replayed of a trace, the address of one (or its name in the library), or a `record_routing` object.

    Raises:
        SteeringError: there is no such trace, or nothing that could be replayed.
    """
    if isinstance(source, Recorded):
        return source
    try:
        if isinstance(source, Trace):
            return TraceRecorded(source)
        if isinstance(source, str):
            url = source if Path(source).exists() else trace_named(source) or source
            return _of_trace(url, open_trace(url).manifest.updated)
    except StoreError as error:
        raise SteeringError(f"replay: {error}") from None
    if hasattr(source, "called"):
        return CallsRecorded(source)
    raise SteeringError(f"replay takes a trace, its address or recorded routing, not {type(source).__name__}")


@lru_cache(maxsize=2)
def _of_trace(url: str, updated: str) -> TraceRecorded:
    """Kept, as every pass of an evaluation asks for it again."""
    return TraceRecorded(open_trace(url))
