"""What SGLang records: its expert distribution recorder, and the `routed_experts` of its responses.

`.pt` files of the recorder come in two modes. `per_token`: expert ids for every token of every forward pass, padded
to 8 columns with -1, physical ids, no request ids. `stat`: counts for each step. They are read with
`weights_only=True`: nothing in them can run. `.jsonl`: responses of /generate, a line each, whose
`meta_info.routed_experts` is base64 of int32 [tokens, layers, k].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .build import Imported, ImportedSequence, storable, write_trace
from .engines import (
    UNKNOWN_TOKEN,
    Request,
    TokenText,
    expert_array,
    from_base64,
    refuse,
    request_texts,
    whole_numbers,
    write_requests,
)
from .rows import json_lines

_DECODE = 2
"""`ForwardMode.DECODE` of SGLang: one token of each running request."""
_USED = {"text", "output_ids", "input_ids", "meta_info"}


def import_sglang(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    experts: int | None = None,
    layers: Sequence[int] | None = None,
    top_k: int | None = None,
    num_layers: int | None = None,
    token_text: TokenText | None = None,
) -> Imported:
    """Import a recorder's `.pt` file or a `.jsonl` file of responses.

    Args:
        experts: number of experts of every router; without it, the largest id that occurs plus 1.
        layers: numbers of the layers in the model; without it 0, 1, 2, ...
        top_k: k; needed for `stat` files (tokens = counts / k) and responses.
        num_layers: needed for responses: how many layers their arrays have.
        token_text: gives the text of token ids.
    Raises:
        ImportRefused: the message names file and entry; nothing is written.
    """
    file = Path(path)
    source = {"format": "sglang", "path": str(path)}
    if file.suffix.lower() == ".pt":
        data = _load(file)
        if "logical_count" in data:
            return _import_stat(data, file.name, out, source, layers, top_k)
        requests = _recorded(data, file.name)
    else:
        if top_k is None or num_layers is None:
            raise ImportRefused(
                f"{file.name}: the responses do not tell their shape: give top_k and num_layers"
            )
        requests = [_response(file.name, number, row, num_layers, top_k) for number, row in _lines(file)]
    return write_requests(requests, out, source=source, experts=experts, layers=layers, token_text=token_text)


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        return list(json_lines(path))
    except OSError as error:
        raise ImportRefused(f"{path}: it can't be read: {error.strerror or error}") from error


def _load(path: Path) -> dict[str, Any]:
    import torch

    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except Exception as error:
        raise ImportRefused(f"{path.name} is not a readable .pt file: {str(error)[:200]}") from error
    if not isinstance(data, dict) or not ({"records", "logical_count"} & data.keys()):
        raise ImportRefused(f"{path.name}: neither `records` nor `logical_count`: this is no recorder file")
    return data


def _array(value: Any, where: str, column: str, dimensions: int) -> np.ndarray:
    detach = getattr(value, "detach", None)
    if detach is None:
        raise refuse(where, column, "it is not a tensor")
    tensor = detach().cpu()
    if str(tensor.dtype) not in ("torch.int64", "torch.int32", "torch.int16", "torch.uint8"):
        raise refuse(where, column, f"expected whole numbers, got {tensor.dtype}")
    if tensor.ndim != dimensions or tensor.is_sparse:
        raise refuse(where, column, f"expected {dimensions} dimensions, got {tuple(tensor.shape)}")
    return tensor.numpy()


# stat


def _import_stat(
    data: dict[str, Any],
    name: str,
    out: str | os.PathLike[str],
    source: dict[str, Any],
    layers: Sequence[int] | None,
    top_k: int | None,
) -> Imported:
    if top_k is None or top_k < 1:
        raise ImportRefused(f"{name}: counts do not tell how many tokens they are of: give top_k")
    count_SLE = _array(data["logical_count"], name, "logical_count", 3)
    if (count_SLE < 0).any():
        raise refuse(name, "logical_count", "a count is negative")
    depth = count_SLE.shape[1]
    numbers = list(range(depth)) if layers is None else list(layers)
    if len(numbers) != depth or len(set(numbers)) < depth:
        raise ImportRefused(f"{len(numbers)} layer numbers are given, but the counts have {depth} layers")
    sequences = []
    for step in np.flatnonzero(count_SLE.any(axis=(1, 2))).tolist():
        sequence = ImportedSequence({"prompt_id": f"step-{step:05d}", "tags": {}}, {"position": []})
        for at, layer in enumerate(numbers):
            count_E = count_SLE[step, at]
            total = int(count_E.sum())
            if total % top_k:
                raise refuse(
                    name, "logical_count", f"{total} choices in step {step} are no multiple of k = {top_k}"
                )
            if total:
                sequence.counts[layer, "decoder"] = (total // top_k, count_E.astype(np.int64))
        sequences.append(sequence)
    notes = [
        "counts by forward pass only: there are no single events, tokens or weights",
        f"tokens are counts / k, with k = {top_k} as given",
    ]
    return write_trace(sequences, out, source=source, experts=count_SLE.shape[2], notes=notes)


# per_token


def _recorded(data: dict[str, Any], name: str) -> list[Request]:
    records = data["records"]
    if not isinstance(records, list):
        raise refuse(name, "records", "it is not a list")
    table = data.get("last_physical_to_logical_map")
    logical_LE = None if table is None else _array(table, name, "last_physical_to_logical_map", 2)
    chains = _Decoding()
    requests: list[Request] = []
    for number, record in enumerate(records):
        where = f"{name}, record {number}"
        if not isinstance(record, dict):
            raise ImportRefused(f"{where}: it is not a dictionary")
        ids = whole_numbers(record.get("input_ids"), where, "input_ids")
        ids_NLK = _pass_ids(record, where, logical_LE, len(ids))
        if record.get("forward_mode") == _DECODE:
            positions = whole_numbers(record.get("positions"), where, "positions")
            chains.take(where, number, ids, positions, ids_NLK)
        else:
            requests += _prefilled(record, where, number, ids, ids_NLK)
    return requests + chains.requests()


def _pass_ids(record: dict[str, Any], where: str, logical_LE: np.ndarray | None, tokens: int) -> np.ndarray:
    ids_LNK = expert_array(
        _array(record.get("topk_ids_of_layer"), where, "topk_ids_of_layer", 3), where, "ids"
    )
    if ids_LNK.size and ids_LNK.shape[1] != tokens:
        raise refuse(where, "topk_ids_of_layer", f"{ids_LNK.shape[1]} tokens, but input_ids has {tokens}")
    if logical_LE is not None and ids_LNK.size:
        if len(logical_LE) != len(ids_LNK) or int(ids_LNK.max()) >= logical_LE.shape[1]:
            raise refuse(where, "last_physical_to_logical_map", "it does not fit the ids")
        logical = np.take_along_axis(logical_LE[:, None, :], np.maximum(ids_LNK, 0).astype(np.int64), axis=2)
        ids_LNK = np.where(ids_LNK < 0, -1, logical)
    return ids_LNK.transpose(1, 0, 2)


def _prefilled(
    record: dict[str, Any], where: str, number: int, ids: list[int], ids_NLK: np.ndarray
) -> list[Request]:
    lengths = record.get("extend_seq_lens")
    lengths = [len(ids)] if lengths is None else whole_numbers(lengths, where, "extend_seq_lens")
    if sum(lengths) != len(ids):
        raise refuse(where, "extend_seq_lens", f"they sum to {sum(lengths)}, input_ids has {len(ids)}")
    found, start = [], 0
    for at, length in enumerate(lengths):
        rows = slice(start, start + length)
        name = f"pass-{number:05d}-{at}"
        found.append(Request(where, name, ids[rows], [], ids_NLK[rows], {"mode": "prefill"}))
        start += length
    return [request for request in found if request.prompt_ids]


class _Decoding:
    """Decoded tokens of running requests. Files have no request ids, so tokens are joined only while the same
    slot of the batch goes on at the next position; they can't be joined to their prompts."""

    def __init__(self) -> None:
        self._running: list[tuple[int, Request, list[np.ndarray]]] = []
        self._done: list[tuple[Request, list[np.ndarray]]] = []

    def take(
        self, where: str, number: int, ids: list[int], positions: list[int], ids_NLK: np.ndarray
    ) -> None:
        if len(positions) != len(ids):
            raise refuse(where, "positions", f"{len(positions)} positions, but input_ids has {len(ids)}")
        goes_on = [last + 1 for last, _, _ in self._running] == positions
        if not goes_on:
            self._stop()
            self._running = [
                (0, Request(where, f"decode-{number:05d}-{at}", [], [], ids_NLK[:0], {"mode": "decode"}), [])
                for at in range(len(ids))
            ]
        for at, (_, request, rows) in enumerate(self._running):
            request.generated_ids.append(ids[at])
            rows.append(ids_NLK[at])
            self._running[at] = (positions[at], request, rows)

    def _stop(self) -> None:
        self._done += [(request, rows) for _, request, rows in self._running]
        self._running = []

    def requests(self) -> list[Request]:
        self._stop()
        for request, rows in self._done:
            if len({row.shape for row in rows}) > 1:
                raise refuse(request.where, "topk_ids_of_layer", "its shape changes from pass to pass")
            request.ids_NLK = np.stack(rows)
        return [request for request, _ in self._done]


# responses


def _response(name: str, number: int, row: dict[str, Any], num_layers: int, top_k: int) -> Request:
    where = f"{name}, row {number}"
    meta = row.get("meta_info")
    if not isinstance(meta, dict):
        raise refuse(where, "meta_info", "it is missing")
    data = from_base64(meta.get("routed_experts"), where, "meta_info.routed_experts")
    width = 4 * num_layers * top_k
    if width <= 0 or len(data) % width:
        message = f"{len(data)} bytes are no multiple of {num_layers} layers × {top_k} experts"
        raise refuse(where, "meta_info.routed_experts", message)
    ids = expert_array(
        np.frombuffer(data, np.int32).reshape(-1, num_layers, top_k), where, "meta_info.routed_experts"
    )
    prompt_ids = row.get("input_ids")
    if prompt_ids is None:
        length = meta.get("prompt_tokens")
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 2**24:
            raise refuse(where, "input_ids", "neither it nor meta_info.prompt_tokens is there")
        prompt_ids = [UNKNOWN_TOKEN] * length
    else:
        prompt_ids = whole_numbers(prompt_ids, where, "input_ids")
    texts = request_texts(row, _USED, where)
    if isinstance(row.get("text"), str):
        texts["generated"] = storable(row["text"], f"{where}, text")
    given = meta.get("id")
    return Request(
        where=where,
        prompt_id=f"response-{number}" if given is None else storable(given, where),
        prompt_ids=prompt_ids,
        generated_ids=whole_numbers(row.get("output_ids", []), where, "output_ids"),
        ids_NLK=ids,
        texts=texts,
    )
