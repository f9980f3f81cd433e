"""Routing as tensors in a safetensors file: the short way out of anybody's own code.

    save_file({"ids": ids, "weights": weights, "lengths": lengths}, "routing.safetensors")

`ids` [tokens, layers, k], with -1 in empty slots; tokens of all sequences one after another, `lengths` of each. What
else a sequence has (text, language, tags) is JSON in the file's metadata. docs/import.md has the whole table.

Shape legend: N tokens of one sequence, T tokens of all, L layers, K slots, E experts.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from ..schema import RouterKey
from .arrays import refuse
from .build import Imported, write_trace
from .cells import Cells
from .check import without_placeholders
from .engines import TokenText, layer_numbers
from .probabilities import SUM_TOLERANCE
from .sequences import Events, ImportedSequence, grid_events, storable
from .torch_files import real_array, whole_array

TENSORS = ("ids", "weights", "lengths", "layers", "token_ids", "probabilities")
LARGEST_WEIGHT = 60000
_PROMPT = ("text", "language", "group", "parallel_id", "generated")


def import_tensors(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    experts: int | None = None,
    layers: Sequence[int] | None = None,
    token_text: TokenText | None = None,
) -> Imported:
    """Import a safetensors file with a tensor `ids`, and what else of `TENSORS` it holds.

    Args:
        experts: number of experts of every router; without it, that of the probabilities, or the largest id plus 1.
        layers: numbers of the layers in the model; without it the tensor `layers`, or 0, 1, 2, ...
        token_text: gives the text of token ids.
    Raises:
        ImportRefused: the message names file and tensor; nothing is written.
    """
    file = Path(path)
    tensors, metadata = _load(file)
    ids_TLK = whole_array(tensors.get("ids"), file.name, "ids", 3).astype(np.int64)
    total, depth, _ = ids_TLK.shape
    if ids_TLK.size and (ids_TLK.min() < -1 or ids_TLK.max() >= 2**31):
        raise refuse(file.name, "ids", "an id is below -1 or beyond 2^31 - 1")
    weights_TLK = _reals(tensors, file.name, "weights", ids_TLK.shape, LARGEST_WEIGHT)
    lengths = _lengths(tensors, file.name, total)
    given = whole_array(tensors["layers"], file.name, "layers", 1).tolist() if "layers" in tensors else None
    numbers = layer_numbers(layers if layers is not None else given, depth)
    probabilities = _probabilities(tensors, file.name, ids_TLK)
    starts = np.r_[0, np.cumsum(lengths)]
    grids, notes = without_placeholders(
        [ids_TLK[a:b] for a, b in itertools.pairwise(starts)], numbers, file.name
    )
    tokens = whole_array(tensors["token_ids"], file.name, "token_ids", 1) if "token_ids" in tensors else None
    if tokens is not None and (
        len(tokens) != total or (total and not 0 <= tokens.min() <= tokens.max() < 2**31)
    ):
        raise refuse(file.name, "token_ids", f"expected {total} token ids from 0 on")
    sequences = []
    for number, (prompt, ids_NLK) in enumerate(
        zip(_prompts(metadata, file.name, len(lengths)), grids, strict=True)
    ):
        rows = slice(int(starts[number]), int(starts[number + 1]))
        sequence = ImportedSequence(prompt, _tokens(rows, tokens, token_text))
        for at, layer in enumerate(numbers if ids_NLK.size else ()):
            events = _events(
                ids_NLK[:, at],
                None if weights_TLK is None else weights_TLK[rows, at],
                None if probabilities is None else probabilities[rows, at],
            )
            if len(events.position):
                sequence.events[RouterKey("decoder", layer)] = events
        sequences.append(sequence)
    if weights_TLK is None:
        notes.append(
            "the file has no weights: experts are in the file's order, views that need weights are empty"
        )
    if experts is None and probabilities is None:
        notes.append("the number of experts of a router is the largest id + 1")
    source = {"format": "tensors", "path": str(path)} | (
        {"model": metadata["model"]} if "model" in metadata else {}
    )
    scoring = "none" if probabilities is None else _scoring(probabilities)
    return write_trace(sequences, out, source=source, experts=experts, notes=notes, scoring=scoring)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            unknown = sorted(names - set(TENSORS))
            if unknown:
                raise ImportRefused(
                    f"{path.name}: unknown tensor {ascii(unknown[0])[:40]}; there may be {', '.join(TENSORS)}"
                )
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except (
        SafetensorError,
        OSError,
        ValueError,
        OverflowError,
        MemoryError,
        RuntimeError,
        TypeError,
    ) as error:
        said = " ".join(str(error).split())[:200]
        raise ImportRefused(f"{path.name} is not a readable safetensors file: {said}") from error


def _lengths(tensors: dict[str, Any], name: str, total: int) -> np.ndarray:
    if "lengths" not in tensors:
        return np.array([total])
    lengths = whole_array(tensors["lengths"], name, "lengths", 1).astype(np.int64)
    # Before they are added up: a sum of int64 can wrap round to the right number.
    if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= total:
        raise refuse(name, "lengths", f"each must be from 0 to the {total} tokens of ids")
    if int(lengths.sum()) != total:
        raise refuse(
            name, "lengths", f"they must sum to the {total} tokens of ids, and do to {int(lengths.sum())}"
        )
    return lengths


def _reals(
    tensors: dict[str, Any], name: str, column: str, shape: tuple[int, ...], largest: float
) -> np.ndarray | None:
    if column not in tensors:
        return None
    values = real_array(tensors[column], name, column)
    if values.shape != shape:
        raise refuse(name, column, f"expected shape {shape}, got {values.shape}")
    if not (np.isfinite(values) & (np.abs(values) <= largest)).all():
        raise refuse(name, column, f"a value is not finite, or beyond {largest:,}")
    return values


def _probabilities(tensors: dict[str, Any], name: str, ids_TLK: np.ndarray) -> np.ndarray | None:
    if "probabilities" not in tensors:
        return None
    shape = tuple(tensors["probabilities"].shape)
    expected = (*ids_TLK.shape[:2], shape[-1] if len(shape) == 3 else -1)
    values = _reals(tensors, name, "probabilities", expected, 1 + SUM_TOLERANCE)
    assert values is not None
    if ids_TLK.size and ids_TLK.max() >= shape[2]:
        raise refuse(name, "probabilities", f"expert {ids_TLK.max()}, but there are {shape[2]} of them")
    routed_TL = (ids_TLK >= 0).any(axis=2)
    if (values < 0).any() or (values.sum(axis=2)[routed_TL] <= 0).any():
        raise refuse(name, "probabilities", "they must be from 0 to 1, and not all 0 for a token")
    return values


def _scoring(probabilities: np.ndarray) -> str:
    sums = probabilities.sum(axis=2)
    return "softmax" if (np.abs(sums[sums > 0] - 1) <= SUM_TOLERANCE).all() else "sigmoid"


def _events(ids_NK: np.ndarray, weights_NK: np.ndarray | None, p_NE: np.ndarray | None) -> Events:
    """In descending weight, equal ones in the order of their slots; empty slots last."""
    if weights_NK is not None:
        order_NK = np.argsort(np.where(ids_NK < 0, np.inf, -weights_NK), axis=1, kind="stable")
        ids_NK = np.take_along_axis(ids_NK, order_NK, axis=1)
        weights_NK = np.take_along_axis(weights_NK, order_NK, axis=1)
    events = grid_events(ids_NK, weights_NK)
    events.probabilities_NE = None if p_NE is None else p_NE[events.position]
    return events


def _tokens(rows: slice, tokens: np.ndarray | None, token_text: TokenText | None) -> dict[str, list[Any]]:
    length = rows.stop - rows.start
    found: dict[str, list[Any]] = {"position": list(range(length))}
    if tokens is not None:
        found["token_id"] = tokens[rows].tolist()
        if token_text is not None:
            found["token"] = list(token_text(found["token_id"]))
    return found


def _prompts(metadata: dict[str, str], name: str, size: int) -> list[dict[str, Any]]:
    """Columns of the sequences from the metadata entry `sequences`: a JSON list of objects."""
    try:
        listed = json.loads(metadata.get("sequences", "null"))
    except (ValueError, RecursionError) as error:
        raise refuse(name, "metadata sequences", f"not JSON: {str(error).splitlines()[0]}") from error
    if listed is None:
        listed = [{} for _ in range(size)]
    if (
        not isinstance(listed, list)
        or len(listed) != size
        or not all(isinstance(row, dict) for row in listed)
    ):
        raise refuse(
            name, "metadata sequences", f"expected a list of {size} objects, one for each of lengths"
        )
    cells, prompts, seen = Cells(name), [], set()
    for number, row in enumerate(listed):
        plain = {
            key: cells.text(number, storable(key, name), value)
            for key, value in row.items()
            if value is not None
        }
        prompt_id = plain.pop("prompt_id", plain.pop("id", f"sequence-{number:05d}"))
        if prompt_id in seen:
            raise refuse(name, "metadata sequences", f"prompt_id {prompt_id[:40]!r} occurs twice")
        seen.add(prompt_id)
        known = {key: plain.pop(key) for key in _PROMPT if key in plain}
        prompts.append({"prompt_id": prompt_id, "tags": plain} | known)
    return prompts
