"""What SGLang records: its expert distribution recorder, and the `routed_experts` of its answers.

`.pt` files of the recorder come in two modes. `per_token` (`sglang_recorder`): expert ids for every token of every
forward pass. `stat`: counts for each step. `.jsonl`: answers of /generate or of the OpenAI server, a line each,
whose `meta_info.routed_experts` is base64 of int32 [tokens, layers, k].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .arrays import expert_array, from_base64, refuse, whole_numbers
from .build import Imported
from .count_steps import CountArray, write_counts
from .engines import (
    ROUTED_KEY,
    START_KEYS,
    UNKNOWN_TOKEN,
    Request,
    TokenText,
    first_routed,
    request_texts,
    write_requests,
)
from .rows import numbered_rows
from .sequences import storable
from .sglang_recorder import recorded
from .torch_files import load, whole_array

_USED = {"text", "output_ids", "input_ids", "meta_info", *START_KEYS, ROUTED_KEY}


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
    """Import a recorder's `.pt` file or a `.jsonl` file of answers.

    Args:
        experts: number of experts of every router; without it, the largest id that occurs plus 1.
        layers: numbers of the layers in the model; without it 0, 1, 2, ...
        top_k: k; needed for `stat` files (tokens = counts / k) and answers.
        num_layers: needed for answers: how many layers their arrays have.
        token_text: gives the text of token ids.
    Raises:
        ImportRefused: the message names file and entry; nothing is written.
    """
    file = Path(path)
    source = {"format": "sglang", "path": str(path)}
    if file.suffix.lower() == ".pt":
        data = load(file)
        if not isinstance(data, dict) or not ({"records", "logical_count"} & data.keys()):
            raise ImportRefused(
                f"{file.name}: neither `records` nor `logical_count`: this is not a recorder file"
            )
        if "logical_count" in data:
            if top_k is None or top_k < 1:
                raise ImportRefused(
                    f"{file.name}: counts do not tell how many tokens they are of: give top_k"
                )
            counts = _steps(whole_array(data["logical_count"], file.name, "logical_count"), file.name)
            return write_counts(counts, out, source=source, layers=layers, top_k=top_k, experts=experts)
        requests, notes = recorded(data, file.name)
    else:
        if top_k is None or num_layers is None:
            raise ImportRefused(
                f"{file.name}: the responses do not tell their shape: give top_k and num_layers"
            )
        rows, notes = numbered_rows(file), []
        requests = [
            request
            for number, row in rows
            for request in _responses(f"{file.name}, row {number}", number, row, num_layers, top_k)
        ]
    return write_requests(
        requests, out, source=source, experts=experts, layers=layers, token_text=token_text, notes=notes
    )


def _steps(count: np.ndarray, name: str) -> CountArray:
    """Steps of a `stat` file, [steps, layers, experts], or their sum, [layers, experts]."""
    if count.ndim == 2:
        count = count[None]
    if count.ndim != 3:
        raise refuse(name, "logical_count", f"expected [steps, layers, experts], got {count.shape}")
    prompts = [{"prompt_id": f"step-{step:05d}"} for step in range(len(count))]
    return CountArray(prompts=prompts, count_SLE=count, what="step")


def _responses(where: str, number: int, row: dict[str, Any], num_layers: int, top_k: int) -> list[Request]:
    choices = row.get("choices")
    if not isinstance(choices, list):
        return [_response(where, f"response-{number}", row, num_layers, top_k)]
    found = []
    for at, choice in enumerate(choices):
        meta = choice.get("meta_info") if isinstance(choice, dict) else None
        if not isinstance(meta, dict):
            raise refuse(where, f"choices[{at}].meta_info", "it is missing")
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else choice.get("text")
        own = {"text": text, "meta_info": meta, "output_ids": choice.get("output_ids")}
        own["input_ids"] = row.get("input_ids")
        name = f"response-{number}" + (f"-{at}" if len(choices) > 1 else "")
        found.append(_response(where, name, own, num_layers, top_k))
    return found


def _response(where: str, name: str, row: dict[str, Any], num_layers: int, top_k: int) -> Request:
    meta = row.get("meta_info")
    if not isinstance(meta, dict):
        raise refuse(where, "meta_info", "it is missing")
    data = from_base64(meta.get("routed_experts"), where, "meta_info.routed_experts")
    width = 4 * num_layers * top_k
    if width <= 0 or len(data) % width:
        message = f"{len(data)} bytes are not a multiple of {num_layers} layers × {top_k} experts"
        raise refuse(where, "meta_info.routed_experts", message)
    ids = expert_array(
        np.frombuffer(data, "<i4").reshape(-1, num_layers, top_k), where, "meta_info.routed_experts"
    )
    prompt_ids = _ids(row.get("input_ids"), meta.get("prompt_tokens"), where, "input_ids", "prompt_tokens")
    generated_ids = (
        _ids(row.get("output_ids"), meta["completion_tokens"], where, "output_ids", "completion_tokens")
        if "completion_tokens" in meta
        else whole_numbers(row.get("output_ids") or [], where, "output_ids")
    )
    texts = request_texts(row, _USED, where)
    if isinstance(row.get("text"), str):
        texts["generated"] = storable(row["text"], f"{where}, text")
    if "prompt" in texts:  # an answer calls its own words `text`
        texts["text"] = texts.pop("prompt")
    given = meta.get("id")
    start = first_routed(len(ids), len(prompt_ids) + len(generated_ids), {**row, **meta}, where)
    return Request(
        where=where,
        prompt_id=name if given is None else storable(given, where),
        prompt_ids=prompt_ids,
        generated_ids=generated_ids,
        ids_NLK=ids,
        texts=texts,
        start=start,
    )


def _ids(ids: Any, length: Any, where: str, column: str, counted: str) -> list[int]:
    """Token ids, or as many unknown ones as `meta_info` counts."""
    if ids is not None:
        return whole_numbers(ids, where, column)
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 2**24:
        raise refuse(where, column, f"neither it nor meta_info.{counted} is there")
    return [UNKNOWN_TOKEN] * length
