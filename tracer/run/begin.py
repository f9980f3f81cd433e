"""What a trace must know before it begins: settings that hold, lengths, and what experts put out.

Everything that can be refused is refused here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...store.schema import RouterSpec
from ..errors import TracerError
from ..hooks.outputs import OUTPUTS, OutputWatch
from ..models.forward import evaluating
from ..models.input_device import input_device
from ..prompts.prompt_set import PromptSet
from ..tokens.encode import Encoded, Encoder
from .capture import EXTRAS, Capture

WEIGHT_TYPES = ("float16", "float32")
TOKENS_AHEAD = 200_000
"""Tokens that are kept between measuring their prompts and running them; later ones are tokenised again."""
_LENGTHS_AT_ONCE = 512
PROBE_TOKENS = 32
"""Tokens on which it is found out how experts add to the residual stream."""


def check_settings(capture: Sequence[str], batch_tokens: int, weight_type: str) -> None:
    """Raises TracerError for settings that no trace can have."""
    unknown = sorted(set(capture) - {"ids", "weights", *EXTRAS})
    if unknown:
        raise TracerError(f"cannot capture {unknown[0]!r} (known: ids, weights, {', '.join(EXTRAS)})")
    if batch_tokens < 1:
        raise TracerError(f"a batch needs at least one token, not {batch_tokens}")
    if weight_type not in WEIGHT_TYPES:
        raise TracerError(f"weights are stored as {' or '.join(WEIGHT_TYPES)}, not {weight_type!r}")


def encode_ahead(encoder: Encoder, prompts: PromptSet) -> tuple[np.ndarray, dict[int, Encoded]]:
    """Tokens of each prompt, (P,) int64, and the first sequences by prompt number, as many as memory allows.

    Raises:
        EncodingError: a prompt that can't be traced.
    """
    lengths = np.empty(len(prompts), np.int64)
    ahead: dict[int, Encoded] = {}
    kept = 0
    for start in range(0, len(prompts), _LENGTHS_AT_ONCE):
        some = prompts.prompts[start : start + _LENGTHS_AT_ONCE]
        encoded = encoder.prompts(some)
        lengths[start : start + len(some)] = [len(sequence) for sequence in encoded]
        if kept < TOKENS_AHEAD:
            ahead |= dict(enumerate(encoded, start))
            kept += int(lengths[start : start + len(some)].sum())
    return lengths, ahead


def describe(prompts: PromptSet) -> dict[str, Any]:
    """What a manifest says of a prompt set."""
    return {
        "name": prompts.name,
        "fingerprint": prompts.fingerprint,
        "prompts": len(prompts),
        "languages": prompts.languages,
        "tags": prompts.tag_names,
    }


def output_watch(
    model: Any, sink: Capture, first: Encoded, capture: Sequence[str], routers: Sequence[RouterSpec] | None
) -> OutputWatch | None:
    """What watches the experts' outputs, tried on the first tokens of a prompt; None where none is wanted."""
    wanted = [name for name in OUTPUTS if name in capture]
    if not wanted:
        return None
    ids_1T = torch.from_numpy(first.ids[:PROBE_TOKENS]).long().unsqueeze(0)
    ids_1T = ids_1T.to(input_device(model))
    inputs = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
    with evaluating(model):
        return OutputWatch(model, sink, inputs, capture=wanted, routers=routers)
