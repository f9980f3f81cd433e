"""What vLLM returns with `enable_return_routed_experts`, saved by the snippet in docs/import.md.

JSONL: one request a line, or one answer of its OpenAI server, whose `choices` carry `routed_experts` as the base64
of a `.npy` file. NPZ: arrays called `N/prompt_token_ids`, `N/token_ids`, `N/routed_experts`, ... for request N.
Ids only: vLLM gives no gate weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .arrays import expert_array, refuse, whole_numbers
from .build import Imported
from .count_arrays import npz_arrays
from .engines import ROUTED_KEY, START_KEYS, Request, TokenText, first_routed, request_texts, write_requests
from .rows import numbered_rows
from .sequences import storable

_USED = {
    "request_id",
    "prompt_token_ids",
    "token_ids",
    "prompt_routed_experts",
    "routed_experts",
    *START_KEYS,
    ROUTED_KEY,
}
_OF_ANSWERS = {"object", "created", "index", "finish_reason", "stop_reason", "system_fingerprint"}
_NAMES = {"prompt": "text", "generated_text": "generated"}


def import_vllm(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    experts: int | None = None,
    layers: Sequence[int] | None = None,
    token_text: TokenText | None = None,
) -> Imported:
    """Import requests of vLLM.

    Args:
        experts: number of experts of every router; without it, the largest id that occurs plus 1.
        layers: numbers of the MoE layers in the model; without it 0, 1, 2, ...
        token_text: gives the text of token ids.
    Raises:
        ImportRefused: the message names file, row and entry; nothing is written.
    """
    file = Path(path)
    rows = _npz_rows(file) if file.suffix.lower() == ".npz" else list(numbered_rows(file))
    requests = [
        _request(f"{file.name}, row {number}", number, request)
        for number, row in rows
        for request in _requests(number, row, f"{file.name}, row {number}")
    ]
    source = {"format": "vllm", "path": str(path)}
    return write_requests(requests, out, source=source, experts=experts, layers=layers, token_text=token_text)


def _requests(number: int, row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The requests of a row: itself, or one for each of the choices of a server's answer."""
    choices = row.get("choices")
    if not isinstance(choices, list):
        return [row]
    plain = {key: value for key, value in row.items() if key not in ("choices", "id", *_OF_ANSWERS)}
    plain |= _cached(row.get("usage"))
    found = []
    for at, choice in enumerate(choices):
        if not isinstance(choice, dict):
            raise refuse(where, f"choices[{at}]", "it is not an object")
        left = ("message", "text", *_OF_ANSWERS)
        own = {key: value for key, value in choice.items() if key not in left and value is not None}
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else choice.get("text")
        name = str(row.get("id") or f"request-{number}") + (f"-{at}" if len(choices) > 1 else "")
        found.append({**plain, "request_id": name, "generated_text": text, **own})
    return found


def _cached(usage: Any) -> dict[str, Any]:
    """How many tokens of the prompt came from the prefix cache, where an answer's `usage` says so."""
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return {} if cached is None else {"cached_tokens": cached}


def _request(where: str, number: int, row: dict[str, Any]) -> Request:
    prompt_ids = whole_numbers(row.get("prompt_token_ids"), where, "prompt_token_ids")
    generated_ids = whole_numbers(_given(row, "token_ids"), where, "token_ids")
    whole = expert_array(_given(row, "routed_experts"), where, "routed_experts")
    tokens = len(prompt_ids) + len(generated_ids)
    if row.get("prompt_routed_experts") is None:
        start = first_routed(len(whole), tokens, row, where)
    else:
        prompt = expert_array(row["prompt_routed_experts"], where, "prompt_routed_experts")
        # An answer without routing of its own still has the prompt's, from its first token on.
        alone = not len(whole) and len(prompt) == len(prompt_ids)
        start = 0 if alone else first_routed(len(prompt) + len(whole), tokens, row, where)
        whole = _joined(prompt, whole, len(prompt_ids) - start, where)
    texts = request_texts({_NAMES.get(key, key): row[key] for key in row}, _USED, where)
    given = row.get("request_id")
    prompt_id = f"request-{number}" if given is None else storable(given, where)
    return Request(where, prompt_id, prompt_ids, generated_ids, whole, texts, start=start)


def _given(row: dict[str, Any], name: str) -> Any:
    value = row.get(name)
    return [] if value is None else value


def _joined(prompt: np.ndarray, generated: np.ndarray, prompt_rows: int, where: str) -> np.ndarray:
    if len(prompt) != prompt_rows and len(generated):
        message = f"{len(prompt)} tokens have experts, but the prompt has {prompt_rows} from there on"
        raise refuse(where, "prompt_routed_experts", message)
    if not len(generated) or not len(prompt):
        return prompt if len(prompt) else generated
    if prompt.shape[1:] != generated.shape[1:]:
        message = f"{prompt.shape[1:]} layers and k, but routed_experts has {generated.shape[1:]}"
        raise refuse(where, "prompt_routed_experts", message)
    return np.concatenate([prompt.astype(np.int64), generated.astype(np.int64)])


def _npz_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows: dict[int, dict[str, Any]] = {}
    for name, array in npz_arrays(path).items():
        number, slash, column = name.partition("/")
        if not slash or not number.isascii() or not number.isdigit() or len(number) > 9:
            raise ImportRefused(f"{path.name}: entry {ascii(name)[:60]} is not called NUMBER/COLUMN")
        rows.setdefault(int(number), {})[column] = array.item() if array.ndim == 0 else array
    return sorted(rows.items())
