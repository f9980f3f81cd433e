"""Batches → parts: arrays by router in the order that the store wants.

A part collects whole batches until it holds enough events, then puts its prompts back into the order of the
prompt set. Nothing here touches a device or a single token.

Shapes: T tokens of a batch (prompt and generated), N tokens of a part, B sequences, K slots, E experts, R
segments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...store.schema import PROMPTS, TOKENS, Part, RouterEvents, RouterKey, RouterSpec, RouterSums
from ..errors import CaptureError
from ..tokens.token_text import TokenTexts
from .host_batch import HostBatch, PromptResult

_PHASES = np.array(["prefill", "decode"], dtype=object)


class PartCollector:
    """Collects batches of one part.

    Args:
        routers: in the order of the trace.
        texts: of the tokenizer that made the token ids.
    """

    def __init__(self, routers: list[RouterSpec], texts: TokenTexts) -> None:
        self._routers = routers
        self._texts = texts
        self._batches: list[HostBatch] = []

    def add(self, batch: HostBatch) -> None:
        self._batches.append(batch)

    @property
    def num_events(self) -> int:
        return sum(batch.num_events for batch in self._batches)

    @property
    def num_bytes(self) -> int:
        return sum(batch.num_bytes for batch in self._batches)

    @property
    def num_prompts(self) -> int:
        return sum(len(batch.results) for batch in self._batches)

    def part(self) -> Part:
        """Everything collected, as a part; begins anew."""
        batches, self._batches = self._batches, []
        results = [result for batch in batches for result in batch.results]
        by_number = np.argsort([result.number for result in results], kind="stable")
        row_of = np.empty(len(results), np.int32)
        row_of[by_number] = np.arange(len(results), dtype=np.int32)
        first = np.cumsum([0, *(len(batch.results) for batch in batches)])
        rows = [
            row_of[start + batch.tokens["sequence"]] for start, batch in zip(first, batches, strict=False)
        ]
        row_N = np.concatenate(rows)
        order = np.argsort(row_N, kind="stable")  # positions ascend within a prompt already
        columns = {
            name: np.concatenate([batch.tokens[name] for batch in batches])[order]
            for name in batches[0].tokens
        }
        row_N = row_N[order]
        keys = [spec.key for spec in self._routers]
        return Part(
            prompts=prompts_table([results[i] for i in by_number]),
            tokens=self._tokens_table(row_N, columns),
            events=[self._events(key, batches, order, row_N, columns["position"]) for key in keys],
            sums=[s for key in keys if (s := _part_sums(key, batches, row_of, first)) is not None],
        )

    def _tokens_table(self, row_N: np.ndarray, columns: dict[str, np.ndarray]) -> pa.Table:
        phase = pa.DictionaryArray.from_arrays(
            pa.array(columns["decode"].astype(np.int8)), pa.array(_PHASES, pa.string())
        )
        arrays = {
            "prompt": row_N,
            "position": columns["position"],
            "token_id": columns["token_id"].astype(np.int32),
            "token": self._texts.of(columns["token_id"]),
            "phase": phase.cast(pa.string()),
            "special": columns["special"],
            "completion": columns["completion"],
        }
        return pa.table([pa.array(arrays[name]) for name in TOKENS.names], schema=TOKENS)

    def _events(
        self,
        key: RouterKey,
        batches: list[HostBatch],
        order: np.ndarray,
        row_N: np.ndarray,
        position_N: np.ndarray,
    ) -> RouterEvents:
        names = batches[0].events[key]
        columns = {
            name: _concatenated([batch.events[key][name] for batch in batches])[order] for name in names
        }
        _check_finite(key, columns.get("weights"))
        experts, slots = _without_empty(columns.pop("ids"))
        chosen = {
            name: _slots(values, slots)
            for name, values in columns.items()
            if name in ("weights", "probability", "output_norm")
        }
        rest = {name: values for name, values in columns.items() if name not in chosen}
        return RouterEvents(
            layer=key.layer,
            stream=key.stream,
            prompt=row_N,
            position=position_N,
            experts=experts,
            weights=chosen.pop("weights", None),
            offsets=None if slots is None else np.r_[0, np.cumsum(slots.sum(1))],
            extras={**chosen, **rest},
        )


def prompts_table(results: list[PromptResult]) -> pa.Table:
    """Rows of the `prompts` table."""
    rows = [
        {
            "prompt_id": result.prompt.id,
            **{name: getattr(result.prompt, name) for name in ("text", "language", "group", "parallel_id")},
            "completion": result.prompt.completion,
            "choices": result.prompt.choices,
            "answer": result.prompt.answer,
            "tags": list(result.prompt.tags.items()),
            "generated": result.generated,
            "choice_logprobs": result.choice_logprobs,
            "correct": result.correct,
        }
        for result in results
    ]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


def _part_sums(
    key: RouterKey, batches: list[HostBatch], row_of: np.ndarray, first: np.ndarray
) -> RouterSums | None:
    if any(key not in batch.sums for batch in batches):
        return None
    rows = [(start, sums) for start, batch in zip(first, batches, strict=False) for sums in batch.sums[key]]
    joined: dict[str, Any] = {name: np.concatenate([sums[name] for _, sums in rows]) for name in rows[0][1]}
    return RouterSums(
        layer=key.layer,
        stream=key.stream,
        prompt=row_of[np.concatenate([start + sums["sequence"] for start, sums in rows])],
        phase=joined["decode"].astype(np.uint8),
        special=joined["special"],
        completion=joined["completion"],
        probability_sum=joined["probability_sum"],
        entropy_sum=joined["entropy_sum"].astype(np.float64),
        nan_tokens=joined["nan_tokens"].astype(np.int64),
    )


def _concatenated(arrays: list[np.ndarray]) -> np.ndarray:
    """Rows end to end; where k varies between batches, the narrower ones get empty slots."""
    width = max(array.shape[-1] for array in arrays) if arrays[0].ndim == 2 else None
    if width is None or all(array.shape[-1] == width for array in arrays):
        return np.concatenate(arrays)
    empty = 255 if arrays[0].dtype == np.uint8 else -1 if arrays[0].dtype.kind == "i" else 0
    pads = [((0, 0), (0, width - array.shape[-1])) for array in arrays]
    return np.concatenate(
        [np.pad(a, pad, constant_values=empty) for a, pad in zip(arrays, pads, strict=True)]
    )


def _without_empty(ids_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Expert ids without empty slots, and which slots are full (None: all of them)."""
    empty_NK = ids_NK == 255 if ids_NK.dtype == np.uint8 else ids_NK < 0
    if not empty_NK.any():
        return ids_NK, None
    return ids_NK[~empty_NK], ~empty_NK


def _slots(values_NK: np.ndarray, slots: np.ndarray | None) -> np.ndarray:
    return values_NK if slots is None else values_NK[slots]


def _check_finite(key: RouterKey, weights: np.ndarray | None) -> None:
    """A float16 infinity is a gate weight that did not fit."""
    if weights is None or weights.dtype != np.float16:
        return
    if ((weights.view(np.uint16) & 0x7FFF) == 0x7C00).any():
        raise CaptureError(f"{key}: a gate weight does not fit float16; trace with float32 weights")
