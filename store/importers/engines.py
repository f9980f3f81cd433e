"""What the importers of inference engines share: requests with a [tokens, layers, k] array of expert ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ImportRefused
from ..schema import RouterKey
from .arrays import refuse
from .build import Imported, write_trace
from .check import without_placeholders
from .sequences import ImportedSequence, grid_events, storable

TokenText = Callable[[list[int]], list[str]]
"""Text of each token id: an engine gives ids only."""

NO_WEIGHTS = (
    "the engine gives no gate weights: views that need them are empty; experts are in the engine's order"
)
UNKNOWN_TOKEN = -1
START_KEYS = ("routed_experts_start_len", "routed_experts_start", "num_cached_tokens", "cached_tokens")
"""What engines call the number of tokens before the first that has routing."""
ROUTED_KEY = "routed_tokens"
"""How many tokens went through the model, where whoever asked the engine knows it."""


@dataclass
class Request:
    """One request of an engine."""

    where: str
    """File and row, for messages."""
    prompt_id: str
    prompt_ids: list[int]
    generated_ids: list[int]
    ids_NLK: np.ndarray
    """Experts of N of its tokens from number `start` on, -1 in empty slots; the last generated token never went
    through."""
    texts: dict[str, str] = field(default_factory=dict)
    """text, generated, language, group, parallel_id where known; anything else becomes a tag."""
    start: int = 0
    positions: list[int] | None = None
    """Of each token; without it 0, 1, 2, ..."""
    phase: str | None = None
    """Of all tokens; without it, the prompt's are prefill and the generated ones decode."""


def first_routed(rows: int, tokens: int, given: dict[str, Any], where: str) -> int:
    """Number of the first token that has routing.

    An engine returns rows for all tokens but the last, or for those after a prefix that it had cached or was told
    to leave out. Fewer rows than that, without a word on where they begin, could be anywhere.

    Args:
        rows, tokens: of the array, and of prompt and answer together.
        given: entries of the answer, among them any of `START_KEYS`.
    Raises:
        ImportRefused: the rows don't fit.
    """
    passed = given.get(ROUTED_KEY)
    if isinstance(passed, int) and rows < passed and not any(given.get(key) for key in START_KEYS):
        message = f"{rows} tokens have experts, but {passed} went through the model"
        raise refuse(where, "routed_experts", message)
    stated = given.get(START_KEYS[0])
    if stated == 1 and not isinstance(stated, bool) and rows == tokens - 1:
        return 1  # all but the first; without the entry, as many rows are all but the last
    if rows in (0, tokens, tokens - 1):
        return 0
    if rows > tokens:
        raise refuse(where, "routed_experts", f"{rows} tokens have experts, but the request has {tokens}")
    for key in START_KEYS:
        start = given.get(key)
        if (
            isinstance(start, int)
            and not isinstance(start, bool)
            and rows in (tokens - start, tokens - 1 - start)
        ):
            return start
    raise refuse(
        where,
        "routed_experts",
        f"{rows} tokens have experts, but the request has {tokens}, of which {tokens - 1} pass the model: where "
        "the routing begins later (prefix caching), `routed_experts_start_len` must say after how many tokens",
    )


def request_sequence(
    request: Request, layers: Sequence[int], token_text: TokenText | None
) -> ImportedSequence:
    """One request as a sequence of the trace."""
    ids = request.prompt_ids + request.generated_ids
    rows = len(request.ids_NLK)
    if request.start + rows > len(ids):
        message = f"{rows} tokens from {request.start} on have experts, but the request has {len(ids)}"
        raise refuse(request.where, "routed_experts", message)
    positions = list(range(len(ids))) if request.positions is None else request.positions
    phases = ["prefill"] * len(request.prompt_ids) + ["decode"] * len(request.generated_ids)
    columns = ("text", "generated", "language", "group", "parallel_id")
    known = {name: request.texts[name] for name in columns if name in request.texts}
    tags = {name: text for name, text in request.texts.items() if name not in known}
    sequence = ImportedSequence(
        prompt={"prompt_id": request.prompt_id, "tags": tags} | known,
        tokens={
            "position": positions,
            "token_id": [None if token == UNKNOWN_TOKEN else token for token in ids],
            "token": list(token_text(ids)) if token_text is not None else [None] * len(ids),
            "phase": phases if request.phase is None else [request.phase] * len(ids),
        },
    )
    position_N = np.asarray(positions[request.start : request.start + rows], np.int64)
    for at, layer in enumerate(layers[: request.ids_NLK.shape[1]]):
        events = grid_events(np.asarray(request.ids_NLK[:, at], np.int64), position_N=position_N)
        if len(events.position):
            sequence.events[RouterKey("decoder", layer)] = events
    return sequence


def write_requests(
    requests: Sequence[Request],
    out: str | os.PathLike[str],
    *,
    source: dict[str, Any],
    experts: int | None,
    layers: Sequence[int] | None,
    token_text: TokenText | None,
    notes: Sequence[str] = (),
) -> Imported:
    """Check the requests against one another and write the trace."""
    depths = {request.ids_NLK.shape[1] for request in requests if request.ids_NLK.size}
    if len(depths) > 1:
        raise ImportRefused(f"{source['path']}: requests have {min(depths)} and {max(depths)} layers")
    depth = depths.pop() if depths else 0
    numbers = layer_numbers(layers, depth)
    _check_ids(requests)
    said = [NO_WEIGHTS]
    if layers is None:
        said.append("layers are numbered in the order of the arrays: the n-th is n - 1")
    if experts is None:
        said.append("the number of experts of a router is the largest id + 1")
    grids, lost = without_placeholders(
        [request.ids_NLK for request in requests], numbers, os.path.basename(str(source["path"]))
    )
    for request, grid in zip(requests, grids, strict=True):
        request.ids_NLK = grid
    sequences = [request_sequence(request, numbers, token_text) for request in requests]
    return write_trace(sequences, out, source=source, experts=experts, notes=[*said, *lost, *notes])


def layer_numbers(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Numbers of the layers of an array. Raises ImportRefused where those given don't fit."""
    if layers is not None and len(layers) != depth:
        raise ImportRefused(f"{len(layers)} layer numbers are given, but the arrays have {depth} layers")
    numbers = list(range(depth)) if layers is None else list(layers)
    if len(set(numbers)) < len(numbers):
        raise ImportRefused("a layer number is given twice")
    return numbers


def _check_ids(requests: Sequence[Request]) -> None:
    seen: set[str] = set()
    for request in requests:
        if request.prompt_id in seen:
            raise refuse(request.where, "request_id", f"{request.prompt_id!r} occurs twice")
        seen.add(request.prompt_id)


def request_texts(row: dict[str, Any], used: set[str], where: str) -> dict[str, str]:
    """Every other plain entry of a request: columns of the prompt, or tags."""
    found = {}
    for name, value in row.items():
        if name in used or value is None or isinstance(value, list | dict | np.ndarray | bytes):
            continue
        found[storable(name, where)] = storable(value, f"{where}, {name!a}")
    return found
