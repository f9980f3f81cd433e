"""From the files of vLLM's workers to a batch of a part: every position there once, with its own token.

Shapes: N rows, L routers, K slots, R segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....store.schema import RouterKey, RouterSpec
from ...errors import CaptureError
from ...run.host_batch import HostBatch, PromptResult
from .spool import SEGMENT_CLASSES

_SUMS = ("probability_sum", "entropy_sum", "nan_tokens")
_EXTRAS = ("entropy", "probability", "logits")


@dataclass(frozen=True)
class Finished:
    """A request that has ended: what the model read, in its order. Arrays have one entry a token."""

    result: PromptResult
    token_ids: np.ndarray
    """Of the prompt, and of the answer without its last token, which was never fed."""
    special: np.ndarray
    completion: np.ndarray
    prompt_length: int

    @property
    def number(self) -> int:
        return self.result.number

    @property
    def decode(self) -> np.ndarray:
        return np.arange(len(self.token_ids)) >= self.prompt_length

    @property
    def classes(self) -> np.ndarray:
        """Of each token: special + 2 · completion + 4 · generated."""
        return self.special + 2 * self.completion.astype(np.int64) + 4 * self.decode


@dataclass(frozen=True)
class WorkerRows:
    """What the workers wrote of some requests; columns by name."""

    columns: dict[str, np.ndarray]
    segments: dict[str, np.ndarray]
    recomputed: int


def read_files(paths: Sequence[str]) -> WorkerRows:
    """The rows of one order, from the file of each data-parallel rank.

    Raises:
        CaptureError: a rank says why it has none, or there are none at all.
    """
    loaded: list[dict[str, np.ndarray]] = []
    for path in paths:
        with np.load(path) as arrays:
            loaded.append({name: arrays[name] for name in arrays.files})
        if "problem" in loaded[-1]:
            raise CaptureError(f"inside vLLM: {loaded[-1]['problem'][0]}")
    loaded = [arrays for arrays in loaded if len(arrays["request"])]
    if not loaded:
        raise CaptureError("inside vLLM: no worker recorded a single row")
    by_segment = [name for name in loaded[0] if name == "segments" or name.split("/")[-1] in _SUMS]
    recomputed = sum(int(arrays["recomputed"][0]) for arrays in loaded)
    joined = {
        name: np.concatenate([arrays[name] for arrays in loaded])
        for name in loaded[0]
        if name != "recomputed"
    }
    return WorkerRows(
        {name: values for name, values in joined.items() if name not in by_segment},
        {name: joined[name] for name in by_segment},
        recomputed,
    )


def batch_of(
    routers: Sequence[RouterSpec], finished: Sequence[Finished], rows: WorkerRows, weight_type: str
) -> HostBatch:
    """The requests as a batch of a part.

    Raises:
        CaptureError: a position that no worker recorded, or one with another token than the request had.
    """
    request_N, position_N = rows.columns["request"], rows.columns["position"]
    sequence_of = {one.number: i for i, one in enumerate(finished)}
    sequence_N = np.array([sequence_of[int(number)] for number in request_N], np.int32)
    # Workers write rows in the order of their steps: `order` (N,) makes it that of `tokens`, prompt by prompt.
    order = np.lexsort((position_N, sequence_N))
    tokens = {
        "sequence": np.repeat(np.arange(len(finished), dtype=np.int32), [len(f.token_ids) for f in finished]),
        "position": np.concatenate([np.arange(len(f.token_ids), dtype=np.int32) for f in finished]),
        "token_id": np.concatenate([f.token_ids for f in finished]),
        "decode": np.concatenate([f.decode for f in finished]),
        "special": np.concatenate([f.special for f in finished]),
        "completion": np.concatenate([f.completion for f in finished]),
    }
    _check(finished, tokens, sequence_N[order], position_N[order], rows.columns["token"][order])
    kind = np.dtype(weight_type)
    events = {
        spec.key: _events(number, spec, rows.columns, order, kind) for number, spec in enumerate(routers)
    }
    sums = _sums(routers, rows.segments, sequence_of)
    return HostBatch([one.result for one in finished], tokens, events, sums)


def _check(
    finished: Sequence[Finished], tokens: dict[str, np.ndarray], sequence_N: np.ndarray, position_N: np.ndarray,
    token_N: np.ndarray,
) -> None:  # fmt: skip
    for number, one in enumerate(finished):
        found = position_N[sequence_N == number]
        if not np.array_equal(found, np.arange(len(one.token_ids))):
            raise CaptureError(
                f"inside vLLM: {len(np.unique(found))} of the {len(one.token_ids)} positions of prompt "
                f"{one.result.prompt.id!r} were recorded"
            )
    if ((token_N >= 0) & (token_N != tokens["token_id"])).any():
        at = int(np.flatnonzero((token_N >= 0) & (token_N != tokens["token_id"]))[0])
        prompt = finished[int(sequence_N[at])].result.prompt.id
        raise CaptureError(
            f"inside vLLM: position {int(position_N[at])} of prompt {prompt!r} was computed with another token"
        )


def _events(
    number: int, spec: RouterSpec, columns: dict[str, np.ndarray], order: np.ndarray, kind: np.dtype[Any]
) -> dict[str, np.ndarray]:
    found = {
        "ids": columns["ids"][order, number, : spec.top_k],
        "weights": columns["weights"][order, number, : spec.top_k].astype(kind),
    }
    for name in _EXTRAS:
        if (values := columns.get(f"{number}/{name}")) is not None:
            found[name] = values[order]
    if "probability" in found:
        found["probability"] = found["probability"][:, : spec.top_k]
    return found


def _sums(
    routers: Sequence[RouterSpec], segments: dict[str, np.ndarray], sequence_of: dict[int, int]
) -> dict[RouterKey, list[dict[str, np.ndarray]]]:
    code_R = segments["segments"]
    class_R = code_R % SEGMENT_CLASSES
    keys = {
        "sequence": np.array([sequence_of[int(number)] for number in code_R // SEGMENT_CLASSES], np.int32),
        "special": class_R % 2 == 1,
        "completion": class_R // 2 % 2 == 1,
        "decode": class_R >= 4,
    }
    found = {}
    for number, spec in enumerate(routers):
        values = {name: segments.get(f"{number}/{name}") for name in _SUMS}
        known = {name: array for name, array in values.items() if array is not None}
        if len(known) == len(_SUMS):
            found[spec.key] = [keys | known]
    return found
