"""Tokens from a model for one batch, greedily or sampled; and what ends and pads a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ..tokens.batches import Batch


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
        """Keyword arguments of `generate`, with everything set that a checkpoint's own defaults could
        change."""
        fixed = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "min_length": 0,
        }
        if self.temperature == 0:
            return {**fixed, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
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
    device = model.get_input_embeddings().weight.device
    options = sampling.options()
    if each_step is not None:
        options["logits_processor"] = LogitsProcessorList([_EachStep(each_step)])
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sampling.seed)
        output_BS = model.generate(
            input_ids=batch.input_ids_BS.to(device),
            attention_mask=batch.mask_BS.to(device),
            pad_token_id=pad_token_id(tokenizer),
            disable_compile=True,
            **options,
        )
    return output_BS[:, batch.input_ids_BS.shape[1] :].cpu()


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


def stop_token_ids(model: Any) -> list[int]:
    """Ids that end a generated sequence."""
    stop = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if stop is None else [stop] if isinstance(stop, int) else list(stop)


def pad_token_id(tokenizer: Any) -> int:
    """An id to pad with: it never reaches the model's attention, nor a trace."""
    found = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id", "bos_token_id"))
    return next((token_id for token_id in found if token_id is not None), 0)
