"""Captured batches as NumPy arrays, with prompt and generated tokens of each sequence sorted together.

Nothing here touches a single token. Shapes: T tokens of a batch, B sequences, K slots, E experts, R segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...store.schema import RouterKey
from ..prompts.prompt import Prompt
from .captured_batch import CLASSES, CapturedBatch, Stored, prompt_segments

_SUMS = ("probability_sum", "entropy_sum", "nan_tokens")


@dataclass
class PromptResult:
    """What the model did with one prompt, beside routing it."""

    prompt: Prompt
    number: int
    """Its place in the prompt set."""
    generated: str | None = None
    choice_logprobs: list[float] | None = None
    correct: bool | None = None


@dataclass
class HostBatch:
    """One batch as NumPy arrays; rows sorted by (sequence, position)."""

    results: list[PromptResult]
    tokens: dict[str, np.ndarray]
    """sequence, position, token_id, decode, special, completion; each (T,)."""
    events: dict[RouterKey, dict[str, np.ndarray]]
    """By router: ids (T, K), weights (T, K), and extras."""
    sums: dict[RouterKey, list[dict[str, np.ndarray]]]
    """By router: for each phase the sums (R, ...) with their segments' columns."""

    @property
    def num_events(self) -> int:
        return len(self.tokens["position"]) * len(self.events)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for columns in self.events.values() for array in columns.values())


def host_batch(captured: CapturedBatch, results: list[PromptResult]) -> HostBatch:
    """Waits for the copy of a batch, and sorts prompt and generated tokens of each sequence together."""
    batch = captured.batch
    tokens = {
        "sequence": batch.sequence_T,
        "position": batch.position_T,
        "token_id": np.concatenate([sequence.ids for sequence in batch.encoded]),
        "decode": np.zeros(len(batch.sequence_T), bool),
        "special": np.concatenate([sequence.special for sequence in batch.encoded]),
        "completion": np.concatenate([sequence.completion for sequence in batch.encoded]),
    }
    events = _by_router(captured, captured.prefill)
    if captured.steps:
        alive_S = captured.step_array(captured.alive).reshape(-1)
        generated = _generated_tokens(captured)
        tokens = {name: np.concatenate([tokens[name], generated[name][alive_S]]) for name in tokens}
        steps = _steps_by_router(captured, alive_S)
        order = np.lexsort((tokens["position"], tokens["sequence"]))
        tokens = {name: values[order] for name, values in tokens.items()}
        events = {key: _joined(events[key], steps[key], order) for key in events}
    return HostBatch(results, tokens, events, _sums_by_router(captured))


def _generated_tokens(captured: CapturedBatch) -> dict[str, np.ndarray]:
    """Columns of every (step, sequence), those included where the sequence had ended."""
    fed_SB = captured.step_array(captured.fed)
    steps, width = fed_SB.shape
    start_B = np.asarray([len(sequence) for sequence in captured.batch.encoded], np.int32)
    # (S steps, B sequences), step by step: a fed token follows the prompt of its own length, whatever the padding.
    position_SB = start_B + np.arange(steps, dtype=np.int32)[:, None]
    return {
        "sequence": np.tile(np.arange(width, dtype=np.int32), steps),
        "position": position_SB.reshape(-1),
        "token_id": fed_SB.reshape(-1),
        "decode": np.ones(steps * width, bool),
        "special": captured.step_array(captured.special).reshape(-1),
        "completion": np.zeros(steps * width, bool),
    }


def _by_router(captured: CapturedBatch, stored: list[Stored]) -> dict[RouterKey, dict[str, np.ndarray]]:
    found: dict[RouterKey, dict[str, np.ndarray]] = {}
    for group in stored:
        arrays = {name: captured.array(group, name) for name in group.slots}
        for number, spec in enumerate(group.routers):
            found[spec.key] = {name: values[number] for name, values in arrays.items() if values is not None}
    return found


def _steps_by_router(captured: CapturedBatch, alive_S: np.ndarray) -> dict[RouterKey, dict[str, np.ndarray]]:
    """Rows of all decode steps end to end, without those of sequences that had ended."""
    steps = [_by_router(captured, step) for step in captured.steps]
    return {
        key: {name: np.concatenate([step[key][name] for step in steps])[alive_S] for name in steps[0][key]}
        for key in steps[0]
    }


def _joined(
    prefill: dict[str, np.ndarray], decode: dict[str, np.ndarray], order: np.ndarray
) -> dict[str, np.ndarray]:
    return {name: np.concatenate([prefill[name], decode[name]])[order] for name in prefill}


def _sums_by_router(captured: CapturedBatch) -> dict[RouterKey, list[dict[str, np.ndarray]]]:
    """Sums with the columns of their segments; segments without tokens are left out."""
    code_R, _ = prompt_segments(captured.batch)
    of_phase: dict[str, tuple[np.ndarray, ...]] = {
        "prefill": (code_R // CLASSES, code_R % 2 == 1, code_R % CLASSES >= 2)
    }
    if captured.steps:
        of_phase["decode"] = _decode_segments(captured)
    found: dict[RouterKey, list[dict[str, np.ndarray]]] = {}
    for stored in captured.sums:
        phase = next(iter(stored.slots)).split()[0]
        sequence, special, completion, *kept = of_phase[phase]
        keep = kept[0] if kept else slice(None)
        arrays = {name: captured.array(stored, f"{phase} {name}") for name in _SUMS}
        for number, spec in enumerate(stored.routers):
            rows = {name: values[number][keep] for name, values in arrays.items() if values is not None}
            rows |= {"sequence": sequence[keep], "special": special[keep], "completion": completion[keep]}
            rows["decode"] = np.full(len(rows["sequence"]), phase == "decode")
            found.setdefault(spec.key, []).append(rows)
    return found


def _decode_segments(captured: CapturedBatch) -> tuple[np.ndarray, ...]:
    """Sequence, special, completion of the 2 B segments of generated tokens, and which of them have
    tokens."""
    width = len(captured.batch)
    segment = np.arange(2 * width)
    sequence, special = segment // 2, segment % 2 == 1
    return sequence, special, np.zeros(2 * width, bool), captured.decode_rows_R()
