"""What vLLM returns with `enable_return_routed_experts`, saved by the snippet in docs/import.md.

JSONL: one request a line. NPZ: arrays called `N/prompt_token_ids`, `N/token_ids`, `N/routed_experts`, ... for
request N. Ids only: vLLM gives no gate weights.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImportRefused
from .build import Imported, storable
from .engines import Request, TokenText, expert_array, refuse, request_texts, whole_numbers, write_requests
from .rows import numbered_rows

_USED = {"request_id", "prompt_token_ids", "token_ids", "prompt_routed_experts", "routed_experts"}
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
    requests = [_request(file.name, number, row) for number, row in rows]
    source = {"format": "vllm", "path": str(path)}
    return write_requests(requests, out, source=source, experts=experts, layers=layers, token_text=token_text)


def _request(name: str, number: int, row: dict[str, Any]) -> Request:
    where = f"{name}, row {number}"
    prompt_ids = whole_numbers(row.get("prompt_token_ids"), where, "prompt_token_ids")
    generated_ids = whole_numbers(row.get("token_ids", []), where, "token_ids")
    whole = expert_array(row.get("routed_experts", []), where, "routed_experts")
    if row.get("prompt_routed_experts") is not None:
        prompt = expert_array(row["prompt_routed_experts"], where, "prompt_routed_experts")
        whole = _joined(prompt, whole, len(prompt_ids), where)
    texts = request_texts({_NAMES.get(key, key): row[key] for key in row}, _USED, where)
    given = row.get("request_id")
    prompt_id = f"request-{number}" if given is None else storable(given, where)
    return Request(where, prompt_id, prompt_ids, generated_ids, whole, texts)


def _joined(prompt: np.ndarray, generated: np.ndarray, prompt_length: int, where: str) -> np.ndarray:
    if len(prompt) != prompt_length and len(generated):
        message = f"{len(prompt)} tokens have experts, but the prompt has {prompt_length}"
        raise refuse(where, "prompt_routed_experts", message)
    if not len(generated) or not len(prompt):
        return prompt if len(prompt) else generated
    if prompt.shape[1:] != generated.shape[1:]:
        message = f"{prompt.shape[1:]} layers and k, but routed_experts has {generated.shape[1:]}"
        raise refuse(where, "prompt_routed_experts", message)
    return np.concatenate([prompt.astype(np.int64), generated.astype(np.int64)])


def _npz_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows: dict[int, dict[str, Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                number, slash, column = name.partition("/")
                if not slash or not number.isascii() or not number.isdigit() or len(number) > 9:
                    raise ImportRefused(f"{path.name}: entry {ascii(name)[:60]} is not called NUMBER/COLUMN")
                array = arrays[name]
                rows.setdefault(int(number), {})[column] = array.item() if array.ndim == 0 else array
    except FileNotFoundError:
        raise ImportRefused(f"{path}: there is no such file") from None
    except ImportRefused:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        raise ImportRefused(f"{path.name} is not a readable .npz file: {error}") from error
    except (SyntaxError, TypeError, OverflowError, MemoryError, RuntimeError, struct.error) as error:
        raise ImportRefused(f"{path.name} is not a readable .npz file: {error}") from error
    return sorted(rows.items())
