"""What the importers of inference engines share: requests with a [tokens, layers, k] array of expert ids."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .build import Imported, ImportedSequence, grid_events, storable, write_trace

TokenText = Callable[[list[int]], list[str]]
"""Text of each token id: an engine gives ids only."""

NO_WEIGHTS = (
    "the engine gives no gate weights: views that need them are empty; experts are in the engine's order"
)
LARGEST_ARRAY = 1 << 31
UNKNOWN_TOKEN = -1
_PROMPT_COLUMNS = ("text", "generated", "language", "group", "parallel_id")


@dataclass
class Request:
    """One request of an engine."""

    where: str
    """File and row, for messages."""
    prompt_id: str
    prompt_ids: list[int]
    generated_ids: list[int]
    ids_NLK: np.ndarray
    """Experts of the first N of its tokens, -1 in empty slots; the last generated token never went through."""
    texts: dict[str, str] = field(default_factory=dict)
    """text, generated, language, group, parallel_id where known; anything else becomes a tag."""


def refuse(where: str, column: str, message: str) -> ImportRefused:
    return ImportRefused(f"{where}, {column}: {message}")


def whole_numbers(value: Any, where: str, column: str) -> list[int]:
    """A list of token ids."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list):
        raise refuse(where, column, "it must be a list of token ids")
    for at, number in enumerate(value):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**31:
            raise refuse(where, column, f"entry {at} is {repr(number)[:40]}, not a token id")
    return value


def expert_array(value: Any, where: str, column: str) -> np.ndarray:
    """(N, L, K) integer array from nested lists, an array, or {"base64", "dtype", "shape"}."""
    if isinstance(value, dict):
        value = _decoded(value, where, column)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise refuse(where, column, "it is not a regular array: its lists have different lengths") from error
    if array.size == 0:
        return np.zeros((0, 0, 0), np.int64)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise refuse(where, column, f"expected whole numbers [tokens, layers, k], got shape {array.shape}")
    if array.min() < -1 or array.max() >= 2**31:
        raise refuse(where, column, f"an expert id is {array.min() if array.min() < -1 else array.max()}")
    return array


def _decoded(value: dict[str, Any], where: str, column: str) -> np.ndarray:
    shape, kind = value.get("shape"), value.get("dtype")
    if not isinstance(shape, list) or len(shape) != 3:
        raise refuse(where, column, "shape must be [tokens, layers, k]")
    if kind not in ("uint8", "uint16", "int16", "int32", "int64"):
        raise refuse(
            where, column, f"dtype {str(kind)[:20]!r} is not one of uint8, uint16, int16, int32, int64"
        )
    flat = np.frombuffer(from_base64(value.get("base64"), where, column), np.uint8)
    sizes = whole_numbers(shape, where, f"{column}.shape")
    total = sizes[0] * sizes[1] * sizes[2] * np.dtype(kind).itemsize
    if total != flat.nbytes or total > LARGEST_ARRAY:
        raise refuse(where, column, f"{flat.nbytes} bytes do not make {shape} of {kind}")
    return flat.view(kind).reshape(sizes)


def from_base64(value: Any, where: str, column: str) -> bytes:
    if not isinstance(value, str):
        raise refuse(where, column, "base64 text is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refuse(where, column, f"this is not base64: {error}") from error


def request_sequence(
    request: Request, layers: Sequence[int], token_text: TokenText | None
) -> ImportedSequence:
    """One request as a sequence of the trace."""
    ids = request.prompt_ids + request.generated_ids
    rows = len(request.ids_NLK)
    if rows > len(ids):
        message = f"{rows} tokens have experts, but the request has {len(ids)}"
        raise refuse(request.where, "routed_experts", message)
    known = {
        c: request.texts[c]
        for c in ("text", "generated", "language", "group", "parallel_id")
        if c in request.texts
    }
    tags = {name: text for name, text in request.texts.items() if name not in known}
    sequence = ImportedSequence(
        prompt={"prompt_id": request.prompt_id, "tags": tags} | known,
        tokens={
            "position": list(range(len(ids))),
            "token_id": [None if token == UNKNOWN_TOKEN else token for token in ids],
            "token": list(token_text(ids)) if token_text is not None else [None] * len(ids),
            "phase": ["prefill"] * len(request.prompt_ids) + ["decode"] * len(request.generated_ids),
        },
    )
    for at, layer in enumerate(layers[: request.ids_NLK.shape[1]]):
        events = grid_events(np.asarray(request.ids_NLK[:, at], np.int64))
        if len(events.position):
            sequence.events[layer, "decoder"] = events
    return sequence


def write_requests(
    requests: Sequence[Request],
    out: str | os.PathLike[str],
    *,
    source: dict[str, Any],
    experts: int | None,
    layers: Sequence[int] | None,
    token_text: TokenText | None,
) -> Imported:
    """Check the requests against one another and write the trace."""
    depths = {request.ids_NLK.shape[1] for request in requests if request.ids_NLK.size}
    if len(depths) > 1:
        raise ImportRefused(f"{source['path']}: requests have {min(depths)} and {max(depths)} layers")
    depth = depths.pop() if depths else 0
    if layers is not None and len(layers) != depth:
        raise ImportRefused(f"{len(layers)} layer numbers are given, but the arrays have {depth} layers")
    numbers = list(range(depth)) if layers is None else list(layers)
    if len(set(numbers)) < len(numbers):
        raise ImportRefused("a layer number is given twice")
    seen: set[str] = set()
    for request in requests:
        if request.prompt_id in seen:
            raise refuse(request.where, "request_id", f"{request.prompt_id!r} occurs twice")
        seen.add(request.prompt_id)
    notes = [NO_WEIGHTS]
    if layers is None:
        notes.append("layers are numbered in the order of the arrays: the n-th MoE layer is n - 1")
    if experts is None:
        notes.append("the number of experts of a router is the largest id + 1")
    sequences = [request_sequence(request, numbers, token_text) for request in requests]
    return write_trace(sequences, out, source=source, experts=experts, notes=notes)


def request_texts(row: dict[str, Any], used: set[str], where: str) -> dict[str, str]:
    """Every other plain entry of a request: columns of the prompt, or tags."""
    found = {}
    for name, value in row.items():
        if name in used or value is None or isinstance(value, list | dict | np.ndarray | bytes):
            continue
        found[storable(name, where)] = storable(value, f"{where}, {name!a}")
    return found
