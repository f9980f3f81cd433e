"""Tokens from a model for one batch, greedily or sampled; and what ends and pads a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..models.input_device import input_device
from ..tokens.batches import Batch

MAY_ACT = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
"""Of a checkpoint's generation defaults: the ids with which a text begins and ends."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def options(self) -> dict[str, Any]:
        """Fields of a `GenerationConfig`. The cache is on whatever the checkpoint says: it changes no logits, and
        without it every step would read the prompt again."""
        fixed: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": 1, "use_cache": True}
        if self.temperature == 0:
            return {**fixed, "do_sample": False}
        return {
            **fixed, "do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0
        }  # fmt: skip


@torch.inference_mode()
def generate_batch(
    model: Any,
    tokenizer: Any,
    batch: Batch,
    sampling: Sampling,
    *,
    each_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """New tokens of each sequence of a left-padded batch, (B, N) on the CPU, padded after a sequence's end.

    Args:
        each_step: called after every forward pass with all tokens so far (B, S + step), still on the device.
    """
    device = input_device(model)
    watching = {}
    if each_step is not None:
        watching["logits_processor"] = LogitsProcessorList([_EachStep(each_step)])
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), own_defaults_aside(model) as defaults:
        torch.manual_seed(sampling.seed)
        output_BS = model.generate(
            input_ids=batch.input_ids_BS.to(device),
            attention_mask=batch.mask_BS.to(device),
            generation_config=GenerationConfig(
                **defaults | sampling.options(), pad_token_id=pad_token_id(tokenizer), disable_compile=True
            ),
            **watching,
        )
    return output_BS[:, batch.input_ids_BS.shape[1] :].cpu()


@contextmanager
def own_defaults_aside(model: Any) -> Iterator[dict[str, Any]]:
    """Takes a checkpoint's generation defaults away for a while, and yields those of `MAY_ACT`.

    Whatever else a `generation_config.json` says (penalties, forbidden n-grams, several answers, speculation, ...)
    would make another token than the likeliest or sampled one; transformers fills every field that a caller leaves
    open from it.
    """
    own = getattr(model, "generation_config", None)
    kept = {name: value for name in MAY_ACT if (value := getattr(own, name, None)) is not None}
    model.generation_config = GenerationConfig(**kept)
    try:
        yield kept
    finally:
        model.generation_config = own


class _EachStep(LogitsProcessor):
    """`generate` calls its logits processors after every forward pass, with the tokens so far."""

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        self._tell = tell

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._tell(input_ids)
        return scores


def trimmed(row_N: Tensor, stop_ids: Sequence[int]) -> list[int]:
    """Tokens up to and with the first one that ends the sequence."""
    ids = row_N.tolist()
    ends = [place for place, token in enumerate(ids) if token in stop_ids]
    return ids[: ends[0] + 1] if ends else ids


def pad_token_id(tokenizer: Any) -> int:
    """An id to pad with: it never reaches the model's attention, nor a trace."""
    found = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id", "bos_token_id"))
    return next((token_id for token_id in found if token_id is not None), 0)
